"""What one client wants of one type: explicit names, and the two ways to want everything.

Rules (xDS "How the client specifies what resources to return"):
  - "*" is the explicit wildcard. A client that never named anything has the legacy wildcard. Both only for types that allow it;
    for the others an empty list wants nothing and "*" is a name that does not exist.
  - State of the world: each request lists all names; what is left out is unsubscribed. Once a name was sent, an empty list means nothing.
  - Delta: lists are changes. The legacy wildcard of an empty first request stays until "*" is unsubscribed.
  - A name that is subscribed must be answered, whether it is known, unchanged or was subscribed before: the client may have forgotten it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from xds_server.core.snapshot import Resource
from xds_server.errors import PeerError

WILDCARD: Final = "*"
MAX_NAMES: Final = 100_000
"""Names one client may want of one type; Istio's largest reported meshes stay an order of magnitude below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a request changed.

    Attributes:
        asked: Names that must be answered even if nothing else changed.
        world: The wildcard began: answer even an empty world.
        shrank: Some name or the wildcard is no longer wanted.
    """

    asked: frozenset[str] = frozenset()
    world: bool = False
    shrank: bool = False

    def __bool__(self) -> bool:
        return bool(self.asked) or self.world or self.shrank


class Subscription:
    """Names and wildcard of one type on one stream."""

    __slots__ = ("_allows_wildcard", "_named", "_spoken", "names", "wildcard")

    def __init__(self, *, allows_wildcard: bool) -> None:
        self._allows_wildcard = allows_wildcard
        self._named = False
        self._spoken = False
        self.names: set[str] = set()
        self.wildcard = False

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def desired(self, world: Mapping[str, Resource]) -> Mapping[str, Resource]:
        """The part of a type's world that the client wants."""
        if self.wildcard:
            return world
        return {name: world[name] for name in self.names if name in world}

    def replace(self, listed: Iterable[str]) -> Change:
        """State of the world: the request's whole list of names."""
        wanted = set(listed)
        self._named = self._named or bool(wanted)
        wildcard = self._allows_wildcard and (WILDCARD in wanted or not self._named)
        if self._allows_wildcard:
            wanted.discard(WILDCARD)
        change = Change(
            asked=frozenset(wanted - self.names),
            world=wildcard and not self.wildcard,
            shrank=bool(self.names - wanted) or (self.wildcard and not wildcard),
        )
        self._set(wanted, wildcard=wildcard)
        return change

    def update(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> Change:
        """Delta: the request's two lists of changes; a name in both ends up subscribed."""
        added, dropped = set(subscribe), set(unsubscribe)
        first, self._spoken = not self._spoken, True
        begins = self._allows_wildcard and (WILDCARD in added or (first and not added))
        ends = self._allows_wildcard and WILDCARD in dropped
        if self._allows_wildcard:
            added.discard(WILDCARD)
            dropped.discard(WILDCARD)
        wildcard = begins or (self.wildcard and not ends)
        dropped = (dropped & self.names) - added
        asked = added | dropped if wildcard else added  # a name that stays wanted through the wildcard is answered once more
        change = Change(asked=frozenset(asked), world=begins, shrank=bool(dropped) or (self.wildcard and not wildcard))
        self._set((self.names | added) - dropped, wildcard=wildcard)
        return change

    def _set(self, names: set[str], *, wildcard: bool) -> None:
        if len(names) > MAX_NAMES:
            raise PeerError(f"more than {MAX_NAMES} names of one type are subscribed on one stream")
        self.names = names
        self.wildcard = wildcard
