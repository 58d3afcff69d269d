"""What is derived from an object is remembered with it."""

import gc
from dataclasses import dataclass
from weakref import ref

from policies.memo import by_object, while_alive


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Thing:
    size: int


def counting():
    asked = []

    def derive(thing: Thing) -> int:
        asked.append(thing.size)
        return thing.size * 2

    return asked, derive


def test_of_one_object_it_is_derived_once():
    for remember in (by_object, while_alive):
        asked, derive = counting()
        remembered, thing = remember(derive), Thing(3)
        assert [remembered(thing), remembered(thing), remembered(Thing(3))] == [6, 6, 6]
        assert asked == [3, 3], "an equal object is another one"


def test_with_the_object_goes_what_was_derived_from_it():
    remembered = while_alive(lambda thing: Thing(thing.size * 2))
    kept, derived = Thing(1000), []
    derived.append(ref(remembered(kept)))
    for size in range(100):
        thing = Thing(size)
        assert remembered(thing).size == size * 2, "whatever object had this place in memory before"
        derived.append(ref(remembered(thing)))
    del thing
    gc.collect()
    assert [each() for each in derived] == [remembered(kept), *[None] * 100]
