"""What a client must be told about one type: a pure function of what it has, what it wants and what it is owed.

`stream` keeps a client's situation and asks here; all clients of a world that are in the same situation are told the same thing, computed
once (`Snapshot.memo`). That is what makes a push to a thousand proxies cheap.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from xds_server.core.facts import Acked, Response, Variant
from xds_server.core.snapshot import Resource, Snapshot, World
from xds_server.core.types import ResourceType

NONE: Final[frozenset[str]] = frozenset()


class Situation(NamedTuple):
    """Where a client stands with one type.

    Attributes:
        known: What it has, or will have when it accepts what is on the way.
        desired: The part of the newest world that it wants.
        asked: Names it must be answered about.
        again: Names to repeat for our own reasons.
        owed: An answer is due even if there is nothing to say.
        rejected: Version by name of what it does not accept; "" for a removal.
        repeats: Responses of this type that this snapshot already caused.
    """

    known: Mapping[str, Resource]
    desired: World
    asked: frozenset[str]
    again: frozenset[str]
    owed: bool
    rejected: Mapping[str, str]
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A response, and what its answer will mean.

    Attributes:
        serial: Of the snapshot that an ACK brings the client up to; 0 for a heartbeat.
        full: Everything the client may have of the type: its ACK ends every rejection.
        names: Told about.
        fresh: Version by name of what is new or asked for, "" for a removal: what a NACK rejects.
        leased: Names whose lifetime begins anew.
        acked: The fact that an ACK is.
    """

    response: Response
    serial: int
    full: bool
    names: frozenset[str]
    fresh: Mapping[str, str]
    leased: tuple[str, ...]
    acked: Acked


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to do about a situation.

    Attributes:
        exchange: What to send; None for nothing.
        known: What the client has afterwards.
        gone: What it has, and the world has not.
        whole: Nothing is kept back for later.
    """

    exchange: Exchange | None
    known: Mapping[str, Resource]
    gone: tuple[str, ...]
    whole: bool


def outcome(row: ResourceType, variant: Variant, snapshot: Snapshot, situation: Situation, *, held: bool) -> Outcome:
    """What a client in this situation must be told now.

    Args:
        held: Removals wait, because another type of this client may still point at what would go.
    """
    if situation.rejected:
        return _decide(row, variant, snapshot, situation, held=held)
    known, desired, asked, again, owed, _, repeats = situation
    key = (row.url, variant is Variant.SOTW, id(known), id(desired), asked, again, owed, repeats, held)
    found: tuple[Situation, Outcome] | None = snapshot.memo.get(key)
    if found is None:
        found = situation, _decide(row, variant, snapshot, situation, held=held)  # the situation keeps its objects' ids from being taken
        snapshot.memo.put(key, found)
    return found[1]


def _decide(row: ResourceType, variant: Variant, snapshot: Snapshot, situation: Situation, *, held: bool) -> Outcome:
    known, desired, asked, _, owed, rejected, _ = situation
    apart = snapshot.apart(row.url, known, desired)
    send = _send(situation, desired if apart is None else apart)
    gone = known.keys() - desired.keys() if apart is None else {name for name in apart if name in known and name not in desired}
    absent = {name for name in asked if name not in desired and name not in known}
    if send or gone or absent or owed:  # removals that were rejected along with something else go again with the next change
        gone = gone | {name for name, version in rejected.items() if not version and name not in desired}
    kept = {name: known[name] for name in gone if name in known} if held else {}
    leaving = () if held else tuple(sorted(gone))
    fresh = {name: each.version for name, each in send.items()}
    if variant is Variant.DELTA:
        content = _Content(send, tuple(sorted(absent.union(leaving))), fresh)
        must = bool(send or content.removed or owed)
    elif row.wildcard:
        content = _Content(desired | kept, (), fresh)
        must = bool(send or leaving or absent or owed)
    else:
        content = _Content(send, (), fresh)
        must = bool(send)
    return Outcome(
        exchange=_exchange(row, variant, snapshot, content, situation.repeats) if must else None,
        known=desired | kept if kept else desired,
        gone=tuple(sorted(gone)),
        whole=not (held and gone),
    )


def _send(situation: Situation, apart: Iterable[str]) -> dict[str, Resource]:
    """What the client lacks, has in another version, or must be told once more; it lacks nothing but what is among `apart`."""
    known, desired, asked, again, _, rejected, _ = situation
    new = [name for name in apart if name in desired and known.get(name) is not desired[name]]
    send = {name: desired[name] for name in new if _differs(known.get(name), desired[name])}
    for name in again:
        if name in desired and rejected.get(name) != desired[name].version:
            send[name] = desired[name]
    for name in asked:
        if name in desired:
            send[name] = desired[name]
    return send


def _differs(known: Resource | None, wanted: Resource) -> bool:
    return known is None or known.version != wanted.version or known.ttl_s != wanted.ttl_s


class _Content(NamedTuple):
    resources: Mapping[str, Resource]
    removed: tuple[str, ...]
    fresh: Mapping[str, str]


def _exchange(row: ResourceType, variant: Variant, snapshot: Snapshot, content: _Content, repeats: int) -> Exchange:
    version = snapshot.version(row.url)
    ordered = tuple(content.resources[name] for name in sorted(content.resources))
    removed = content.removed
    nonce = f"{snapshot.serial:x}.{_digest(row, variant, version, ordered, removed)}"
    return Exchange(
        response=Response(
            type_url=row.url,
            nonce=f"{nonce}.{repeats:x}" if repeats else nonce,
            version=version,
            resources=ordered,
            removed=removed,
        ),
        serial=snapshot.serial,
        full=variant is Variant.SOTW and row.wildcard,
        names=frozenset((*content.resources, *removed)),
        fresh={**content.fresh, **dict.fromkeys(removed, "")},
        leased=tuple(each.name for each in ordered if each.ttl_s is not None),
        acked=Acked(type_url=row.url, version=version, heartbeat=False),
    )


def heartbeat(
    row: ResourceType, variant: Variant, snapshot: Snapshot, leased: tuple[Resource, ...], version: str, *, beat: int, late: bool
) -> Exchange:
    """The response that prolongs lifetimes; `late`: with the resources themselves, which the client may have dropped."""
    key = ("beat", row.url, variant is Variant.SOTW, tuple(map(id, leased)), version, beat, late)
    found: tuple[tuple[Resource, ...], Exchange] | None = snapshot.memo.get(key)
    if found is None:
        names = tuple(each.name for each in leased)
        nonce = f"b{beat:x}.{_digest(row, variant, version, leased, ())}"
        made = Exchange(
            response=Response(
                type_url=row.url,
                nonce=f"{nonce}.full" if late else nonce,
                version=version,
                resources=leased,
                bodiless=variant is Variant.DELTA and not late,
            ),
            serial=0,
            full=False,
            names=frozenset(names),
            fresh={each.name: each.version for each in leased},
            leased=names,
            acked=Acked(type_url=row.url, version=version, heartbeat=True),
        )
        found = leased, made
        snapshot.memo.put(key, found)
    return found[1]


def _digest(row: ResourceType, variant: Variant, version: str, resources: Iterable[Resource], removed: Iterable[str]) -> str:
    """Short name of a response's content: equal content, equal name, whoever computes it."""
    digest = hashlib.blake2b(f"{row.url}{variant.value}{version}:".encode(), digest_size=6)
    for each in resources:
        digest.update(f"{len(each.name)}:{each.name}{len(each.version)}:{each.version}{each.ttl_s};".encode())
    for name in removed:
        digest.update(f"-{len(name)}:{name}".encode())
    return digest.hexdigest()
