"""What one client wants of one type: explicit names, and the two ways to want everything.

Rules (xDS "How the client specifies what resources to return"):
  - "*" is the explicit wildcard. A client that never named anything has the legacy wildcard. Both only for types that allow it;
    for the others an empty list wants nothing and "*" is a name that does not exist.
  - State of the world: each request lists all names; what is left out is unsubscribed. Once a name was sent, an empty list means nothing.
  - Delta: lists are changes. The legacy wildcard of an empty first request stays until "*" is unsubscribed.
  - A name that is subscribed must be answered, whether it is known, unchanged or was subscribed before: the client may have forgotten it.
"""

from dataclasses import dataclass
from typing import Final

from xds_server.core.snapshot import Snapshot, World
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
    """Names and wildcard of one type on one stream.

    Attributes:
        listed: The names of the last request (state of the world), () from the first request on (delta); None before.
    """

    __slots__ = ("_allows_wildcard", "_named", "listed", "names", "wildcard")

    def __init__(self, *, allows_wildcard: bool) -> None:
        self._allows_wildcard = allows_wildcard
        self._named = False
        self.listed: tuple[str, ...] | None = None
        self.names: frozenset[str] = frozenset()
        self.wildcard = False

    def covers(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def desired(self, snapshot: Snapshot, type_url: str) -> World:
        """The part of a type's world that the client wants; the same object for all clients that want the same."""
        if self.wildcard:
            return snapshot.of(type_url)
        self.names, desired = snapshot.select(type_url, self.names)
        return desired

    def replace(self, listed: tuple[str, ...]) -> Change:
        """State of the world: the request's whole list of names."""
        self.listed = listed
        wanted = frozenset(listed)
        self._named = self._named or bool(wanted)
        wildcard = self._allows_wildcard and (WILDCARD in wanted or not self._named)
        if self._allows_wildcard:
            wanted -= {WILDCARD}
        change = Change(
            asked=wanted - self.names,
            world=wildcard and not self.wildcard,
            shrank=bool(self.names - wanted) or (self.wildcard and not wildcard),
        )
        self._set(wanted, wildcard=wildcard)
        return change

    def update(self, subscribe: tuple[str, ...], unsubscribe: tuple[str, ...]) -> Change:
        """Delta: the request's two lists of changes; a name in both ends up subscribed."""
        first, self.listed = self.listed is None, ()
        added, dropped = frozenset(subscribe), frozenset(unsubscribe)
        begins = self._allows_wildcard and (WILDCARD in added or (first and not added))
        ends = self._allows_wildcard and WILDCARD in dropped
        if self._allows_wildcard:
            added -= {WILDCARD}
            dropped -= {WILDCARD}
        wildcard = begins or (self.wildcard and not ends)
        dropped = (dropped & self.names) - added
        asked = added | dropped if wildcard else added  # a name that stays wanted through the wildcard is answered once more
        change = Change(asked=asked, world=begins, shrank=bool(dropped) or (self.wildcard and not wildcard))
        self._set((self.names | added) - dropped, wildcard=wildcard)
        return change

    def _set(self, names: frozenset[str], *, wildcard: bool) -> None:
        if len(names) > MAX_NAMES:
            raise PeerError(f"more than {MAX_NAMES} names of one type are subscribed on one stream")
        self.names = names
        self.wildcard = wildcard
