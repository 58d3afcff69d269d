"""The world as one group of proxies should see it: immutable, complete, with content-hash versions.

Neighbours: `xds_server.resources` builds it, `stream` delivers it. Bodies are opaque bytes; only the edges know protobuf.
Versions are hashes of content, so replicas agree and an unchanged resource is never sent twice (xDS: a version belongs to the
resource, not to the stream).

A snapshot derived from another by `replace` shares all that did not change, by identity: the worlds of a thousand rollouts, of both
views of a group or of every zone cost what they differ in.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from xds_server.core.types import short

Reference = tuple[str, str]
"""(type URL, name) of a resource that another one needs."""

World = MappingProxyType[str, "Resource"]
"""All resources of a type by name."""

_MEMO_MAX: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One xDS resource.

    Attributes:
        version: Hash of the content.
        body: The serialised message (what goes into `Any.value`).
        ttl_s: Lifetime without a heartbeat [seconds]; None for a committed resource.
        references: What it needs to exist; read by `Snapshot.check` only, and by the re-send of endpoints after their cluster changed.
    """

    name: str
    version: str
    body: bytes
    ttl_s: float | None = None
    references: tuple[Reference, ...] = ()


class Memo(dict[object, Any]):
    """What is derived from one snapshot again and again; it lives and dies with it. Full, it starts anew."""

    __slots__ = ()

    def put(self, key: object, value: Any) -> None:
        if len(self) >= _MEMO_MAX:
            self.clear()
        self[key] = value


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All resources of a group at one moment.

    Attributes:
        serial: Number of the snapshot, growing over all worlds that one proxy may come to see.
        resources: By type URL, then by name: two of one name cannot be.
        versions: Version of each type's whole world, for people; a hash of its content unless given.
        memo: For what `stream` and `exchange` derive from this snapshot for many clients.
    """

    serial: int
    resources: Mapping[str, Mapping[str, Resource]]
    versions: Mapping[str, str] | None = None
    memo: Memo = field(default_factory=Memo, init=False, compare=False, repr=False)
    _worlds: Mapping[str, World] = field(init=False, compare=False, repr=False)
    _sums: Mapping[str, int] = field(init=False, compare=False, repr=False)
    _edits: Mapping[str, tuple[World, frozenset[str]]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        copied = {url: MappingProxyType(dict(named)) for url, named in self.resources.items()}
        for url, named in copied.items():
            for key, resource in named.items():
                _filed(url, key, resource)
        self._settle(copied, {url: sum(map(_fingerprint, named.values())) for url, named in copied.items()}, self.versions or {})

    def _settle(self, resources: Mapping[str, World], sums: Mapping[str, int], given: Mapping[str, str]) -> None:
        object.__setattr__(self, "resources", MappingProxyType(dict(resources)))
        object.__setattr__(self, "_worlds", self.resources)
        object.__setattr__(self, "_sums", sums)
        object.__setattr__(self, "versions", MappingProxyType({url: given.get(url) or _hex(total) for url, total in sums.items()}))

    def of(self, type_url: str) -> World:
        """Resources of one type by name, maybe none. The same object means the same content."""
        return self._worlds.get(type_url, NOTHING)

    def version(self, type_url: str) -> str:
        """Version of one type's world; the same for a type that is absent and one that is empty."""
        assert self.versions is not None
        return self.versions.get(type_url, EMPTY_WORLD)

    def select(self, type_url: str, names: frozenset[str]) -> tuple[frozenset[str], World]:
        """The named part of a type's world; equal names give the same two objects, for all clients."""
        key = (type_url, names)
        found: tuple[frozenset[str], World] | None = self.memo.get(key)
        if found is None:
            found = names, self._select(type_url, names)
            self.memo.put(key, found)
        return found

    def _select(self, type_url: str, names: frozenset[str]) -> World:
        """An Envoy names all endpoints of its clusters: often that is the very world, or was before the last change."""
        world = self.of(type_url)
        if world.keys() <= names:
            return world
        before, edited = self._edits.get(type_url, (None, frozenset()))
        if before is None or not before.keys() <= names:
            return MappingProxyType({name: world[name] for name in names if name in world})
        part = world.copy()
        for name in edited - names:
            part.pop(name, None)
        chosen = MappingProxyType(part)
        self.memo.put(("all there was", id(chosen)), chosen)
        return chosen

    def apart(self, type_url: str, known: Mapping[str, Resource], desired: Mapping[str, Resource]) -> Iterable[str] | None:
        """Names in which two sets of resources can differ, where this snapshot knows without a look; None where it does not.

        It knows of the world it was derived from, and of its own as far as all names of the former are in it.
        """
        before, edited = self._edits.get(type_url, (None, ()))
        if known is not before:
            return None
        own = desired is self.of(type_url) or self.memo.get(("all there was", id(desired))) is desired
        return edited if own else None

    def replace(self, *, serial: int, changed: Mapping[str, Mapping[str, Resource | None]]) -> "Snapshot":
        """The next snapshot: the same but for the given resources, at the price of these.

        Args:
            changed: By type URL and name; None takes the resource out. What is the same already changes nothing.
        """
        resources, sums, edited = dict(self._worlds), dict(self._sums), {}
        for url, edits in changed.items():
            before = self.of(url)
            real = {name: each for name, each in edits.items() if before.get(name) is not each}
            if not real:
                continue
            after, total = before.copy(), sums.get(url, 0)  # twenty times as fast as dict() of a proxy
            for name, each in real.items():
                old = after.pop(name, None)
                total -= _fingerprint(old) if old is not None else 0
                if each is not None:
                    _filed(url, name, each)
                    after[name] = each
                    total += _fingerprint(each)
            resources[url], sums[url] = MappingProxyType(after), total
            edited[url] = before, frozenset(real)
        derived = object.__new__(Snapshot)
        object.__setattr__(derived, "serial", serial)
        object.__setattr__(derived, "memo", Memo())
        object.__setattr__(derived, "_edits", edited)
        derived._settle(resources, sums, {})
        return derived

    def check(self, since: "Snapshot | None" = None) -> tuple[str, ...]:
        """What is wrong with it, one sentence each: resources that point at something absent.

        Args:
            since: A faultless snapshot; what both have needs no second look, unless something is gone.
        """
        return tuple(
            f"{short(url)} {resource.name!r} needs {short(needed_url)} {needed!r}, which is not in the snapshot"
            for url, resource in self._suspects(since)
            for needed_url, needed in resource.references
            if needed not in self.of(needed_url)
        )

    def _suspects(self, since: "Snapshot | None") -> Iterator[tuple[str, Resource]]:
        known = since if since is not None and not self._lost(since) else _VOID
        for url, named in sorted(self.resources.items()):
            before = known.of(url)
            if named is not before:
                new = [each for name, each in named.items() if before.get(name) is not each]
                for each in sorted(new, key=lambda each: each.name):
                    yield url, each

    def _lost(self, since: "Snapshot") -> bool:
        """Whether something of the older one is gone."""
        return any(named is not self.of(url) and bool(named.keys() - self.of(url).keys()) for url, named in since.resources.items())


def _filed(url: str, key: str, resource: Resource) -> None:
    if key != resource.name:
        raise ValueError(f"{short(url)} resource {resource.name!r} is filed under the name {key!r}")


def _fingerprint(resource: Resource) -> int:
    """128 bits of name, version and lifetime. A world's version is their sum: free of order, and a change costs what changed."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (resource.name, resource.version, repr(resource.ttl_s)):
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return int.from_bytes(digest.digest(), "big")


def _hex(total: int) -> str:
    return f"{total % (1 << 128):032x}"[:16]


def world_version(resources: Iterable[Resource]) -> str:
    """Hash over names, versions and lifetimes, independent of their order."""
    return _hex(sum(map(_fingerprint, resources)))


NOTHING: World = MappingProxyType({})
_VOID = Snapshot(serial=0, resources={})
EMPTY_WORLD = world_version(())
