"""What a set of documents would change on a running server, before it is applied: `crossfade diff`.

The engine's own rules answer (`policies.edits`), asked about a state that is then thrown away; nothing here decides anything.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import zip_longest
from typing import Final

from policies import edits, explain
from policies.rollout import IN_RELEASE, Mode, PolicyChanged, Rollout
from policies.spec.policy import RolloutPolicy

FIELDS_MAX: Final = 200
"""Differences told of one document."""

SHOWN_MAX: Final = 120
"""Longest value told [characters]."""

_ABSENT: Final = object()


class Effect(StrEnum):
    """What applying a document does."""

    UNCHANGED = "unchanged"
    NEW = "new"
    GONE = "gone"
    """The document is removed, and its traffic with it."""
    EDITED = "edited"
    """Something changes, and a release that runs goes on."""
    STARTS = "starts"
    """A release begins."""
    RESTARTS = "restarts"
    """The running release ends, and another begins at share 0."""
    ENDS = "ends"
    """The running release ends, because nothing is left to roll out."""
    RECOMMITS = "recommits"
    """Another version becomes stable at once, and a running release ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One value that differs; None = it is not there."""

    path: str
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happens to one document; `words` is what the engine would say."""

    kind: str
    name: str
    effect: Effect
    words: str = ""
    fields: tuple[FieldChange, ...] = ()


def effect_on(state: Rollout | None, policy: RolloutPolicy | None) -> tuple[Effect, str]:
    """What a document does to a rollout, and why in words.

    Args:
        state: The rollout as it is; None = there is none of the name.
        policy: The document as it would be; None = it would be gone.
    """
    if state is None or state.mode is Mode.RETIRED:
        return (Effect.NEW, "") if policy is not None else (Effect.UNCHANGED, "")
    if policy is None:
        return Effect.GONE, "its requests are answered by no rollout any more"
    if policy == state.policy:
        return Effect.UNCHANGED, ""
    outcome = edits.changed(state, PolicyChanged(policy=policy, lane=state.lane), now=state.clock)
    after = outcome.state
    words = "; ".join(explain.sentence(taken.reason) for taken in outcome.decisions)
    running = state.mode in IN_RELEASE and bool(state.arms)
    if after.incoming is not None and after.incoming != state.incoming:
        return Effect.RECOMMITS, words
    if after.generation != state.generation:
        return Effect.RESTARTS if running else Effect.STARTS, words
    if running and after.mode not in IN_RELEASE:
        return Effect.ENDS, words
    return Effect.EDITED, words


def differences(old: object, new: object) -> tuple[FieldChange, ...]:
    """Values that differ between two trees of plain data (or two values of `policies.spec.policy`), by path."""
    found = list(_differing(_plain(old), _plain(new), ""))
    if len(found) > FIELDS_MAX:
        rest = FieldChange(path="…", old=None, new=f"and {len(found) - FIELDS_MAX} more")
        return (*found[:FIELDS_MAX], rest)
    return tuple(found)


def _plain(value: object) -> object:
    return asdict(value) if isinstance(value, RolloutPolicy) else value


def _differing(old: object, new: object, path: str) -> Iterator[FieldChange]:
    pairs = _parts(old, new)
    if pairs is None:
        if type(old) is not type(new) or old != new:
            yield FieldChange(path=path, old=_shown(old), new=_shown(new))
        return
    for step, one, two in pairs:
        yield from _differing(one, two, path + step if path else step.removeprefix("."))


def _parts(old: object, new: object) -> list[tuple[str, object, object]] | None:
    """What two containers of a kind hold, side by side: lists of named things by their names, others by place."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [(f".{key}", old.get(key, _ABSENT), new.get(key, _ABSENT)) for key in dict.fromkeys((*old, *new))]
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        one, two = _named(old), _named(new)
        if one is not None and two is not None:
            return [(f"[{name}]", one.get(name, _ABSENT), two.get(name, _ABSENT)) for name in dict.fromkeys((*one, *two))]
        return [(f"[{place}]", *both) for place, both in enumerate(zip_longest(old, new, fillvalue=_ABSENT))]
    return None


def _named(things: Sequence[object]) -> dict[object, object] | None:
    """Things by name, if all have one of their own."""
    if not things:
        return {}
    names = [thing.get("name") if isinstance(thing, Mapping) else None for thing in things]
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        return None
    return dict(zip(names, things, strict=True))


def _shown(value: object) -> str | None:
    if value is _ABSENT:
        return None
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_MAX else text[: SHOWN_MAX - 1] + "…"
