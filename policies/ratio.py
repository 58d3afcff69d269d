"""Do the arms get the share of requests that the proxies ACKed? If not, something is wrong with the measurement, and no PASS may be believed.

Only where every request is drawn anew: requests of one sticky user are no independent draws. Requests are counted when they end, so a share
that has just grown and a candidate that answers slowly look too small for a while: only a gross mismatch counts, and it holds the stage as long
as it lasts. Nothing is reverted for it.
Neighbours: `policies.statistics.ratio_gate` has the test; `verdicts` waits while there is a mismatch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from policies.evidence import NOTHING, Counts
from policies.spec.policy import FULL_BP
from policies.statistics.ratio_gate import ALPHA, log_ratio

GROSS = 1.5
"""Times by which an arm's part is too small or too large to be a matter of late answers."""

LEAST = 50
"""Requests of all arms before anything is said [requests]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Requests under one set of shares, stable first; round-trips through JSON.

    Attributes:
        shares: In force on every proxy [hundredths of a per cent].
        requests: Seen since [requests].
    """

    shares: tuple[int, ...] = ()
    requests: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """An arm whose part is off. `arm`: its place, 0 = stable; parts are fractions."""

    arm: int
    seen: float
    due: float


def drawn(state: Drawn, shares: Sequence[int], identities: Sequence[str], users: Mapping[str, Counts]) -> Drawn:
    """After a block: new shares begin anew.

    Args:
        shares: Of the arms, in force on every proxy [hundredths of a per cent]; stable has the rest.
        identities: Of stable, then of the arms.
        users: The block's counts by identity.
    """
    found = (FULL_BP - sum(shares), *shares)
    if found != state.shares:
        return Drawn(shares=found, requests=(0,) * len(found))
    more = (users.get(identity, NOTHING).requests for identity in identities)
    return Drawn(shares=found, requests=tuple(map(sum, zip(state.requests, more, strict=True))))


def mismatch(state: Drawn, *, stages: int) -> Mismatch | None:
    """The arm that is off most, if the parts cannot be what the shares make them.

    Args:
        stages: Number of shares over which the level is split, >= 1.
    """
    total = sum(state.requests)
    if total < LEAST or max(state.shares) >= FULL_BP:
        return None
    parts = [(seen / total, share / FULL_BP) for seen, share in zip(state.requests, state.shares, strict=True)]
    far, place = max((max(seen / due, due / max(seen, 1e-9)), place) for place, (seen, due) in enumerate(parts) if due > 0)
    if far < GROSS or log_ratio(state.requests, [due for _, due in parts]) < log(max(stages, 1) / ALPHA):
        return None
    return Mismatch(arm=place, seen=parts[place][0], due=parts[place][1])
