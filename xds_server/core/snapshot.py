"""The world as one group of proxies should see it: immutable, complete, with content-hash versions.

Neighbours: `xds_server.resources` builds it, `stream` delivers it. Bodies are opaque bytes; only the edges know protobuf.
Versions are hashes of content, so replicas agree and an unchanged resource is never sent twice (xDS: a version belongs to the
resource, not to the stream).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from xds_server.core.types import short

Reference = tuple[str, str]
"""(type URL, name) of a resource that another one needs."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All resources of a group at one moment.

    Attributes:
        serial: Number of the snapshot, growing within its group.
        resources: By type URL, then by name: two of one name cannot be.
        versions: Version of each type's whole world, derived.
    """

    serial: int
    resources: Mapping[str, Mapping[str, Resource]]
    versions: Mapping[str, str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        copied = {url: MappingProxyType(dict(named)) for url, named in self.resources.items()}
        for url, named in copied.items():
            for key, resource in named.items():
                if key != resource.name:
                    raise ValueError(f"{short(url)} resource {resource.name!r} is filed under the name {key!r}")
        object.__setattr__(self, "resources", MappingProxyType(copied))
        object.__setattr__(self, "versions", MappingProxyType({url: world_version(named.values()) for url, named in copied.items()}))

    def of(self, type_url: str) -> Mapping[str, Resource]:
        """Resources of one type by name, maybe none."""
        return self.resources.get(type_url, _NOTHING)

    def version(self, type_url: str) -> str:
        """Version of one type's world; the same for a type that is absent and one that is empty."""
        return self.versions.get(type_url, EMPTY_WORLD)

    def check(self) -> tuple[str, ...]:
        """What is wrong with it, one sentence each: resources that point at something absent."""
        return tuple(
            f"{short(url)} {resource.name!r} needs {short(needed_url)} {needed!r}, which is not in the snapshot"
            for url, named in sorted(self.resources.items())
            for resource in sorted(named.values(), key=lambda each: each.name)
            for needed_url, needed in resource.references
            if needed not in self.of(needed_url)
        )


def world_version(resources: Iterable[Resource]) -> str:
    """Hash over names, versions and lifetimes, independent of their order."""
    digest = hashlib.sha256()
    for name, version, ttl in sorted((each.name, each.version, repr(each.ttl_s)) for each in resources):
        for part in (name, version, ttl):
            raw = part.encode()
            digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.hexdigest()[:16]


_NOTHING: Mapping[str, Resource] = MappingProxyType({})
EMPTY_WORLD = world_version(())
