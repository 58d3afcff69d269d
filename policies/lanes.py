"""Which users get which arm: every arm's interval of the hash space, laid out so that a growing share only ever takes users from stable.

A user's place is `hash % TOTAL`. The total is prime, because Envoy draws the weighted pick and the mirror sample from the same random number:
with a total of 100 or 10 000 the two would be correlated. It never changes, because the place of a sticky user must not.

Every arm has a home that is as wide as the most it may get in the release (`reserve`). Homes lie in pairs around a gap of stable's; the left
one grows to the right, the right one to the left, and a lone one to the left:

    one arm      [ stable        | a ]
    two arms     [ a |   stable  | b ]
    three arms   [ a |   stable  | b ][ stable | c ]

So no arm's growth moves another's users, and none of an arm's users leaves it before its share shrinks. Rollouts of one layer see the same
hash of a user and have lanes that do not overlap, outside of which everything is stable's.
Neighbours: `xds_server.resources.routes` sends the slots to Envoy in this order; `policies.assign` looks a user up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.spec.policy import FULL_BP

TOTAL = 10_007
"""Sum of the weights of every route."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A part of all users: [start, start + width) [hundredths of a per cent]."""

    start_bp: int
    width_bp: int

    @property
    def end_bp(self) -> int:
        return self.start_bp + self.width_bp


WHOLE = Lane(start_bp=0, width_bp=FULL_BP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """One arm's part of the layout [hundredths of a per cent]: 0 <= share <= reserve."""

    share_bp: int
    reserve_bp: int


@dataclass(frozen=True, slots=True)
class Slot:
    """One interval, in the order Envoy walks them. `arm`: index of the arm, None = stable's."""

    arm: int | None
    weight: int


def weight(share_bp: int) -> int:
    """The weight of a share: one of its own for every hundredth of a per cent, 0 for 0 and `TOTAL` for everything."""
    return share_bp * TOTAL // FULL_BP


def order(arms: int, lane: Lane = WHOLE) -> tuple[int | None, ...]:
    """Whose slots there are: index of the arm, None = stable's. The number of arms and the lane say it, so that a share changes weights alone."""
    if not arms:
        return (None,)
    found: list[int | None] = [None] if lane.start_bp else []
    for first in range(0, arms, 2):
        if first + 1 < arms:
            found += [first, None, first + 1]
        else:
            found += [first] if found[-1:] == [None] else [None, first]
    return (*found, None) if lane.end_bp < FULL_BP else tuple(found)


def misfit(homes: Sequence[Home], lane: Lane = WHOLE) -> str:
    """Why arms cannot be laid out, "" = they can."""
    if any(not 0 <= home.share_bp <= home.reserve_bp for home in homes):
        return f"a share must be within its reserve: {homes}"
    if lane.start_bp < 0 or lane.end_bp > FULL_BP or sum(home.reserve_bp for home in homes) > lane.width_bp:
        return f"the arms do not fit into the lane: {homes}, {lane}"
    return ""


def slots(homes: Sequence[Home], lane: Lane = WHOLE) -> tuple[Slot, ...]:
    """The intervals of a rollout, in their `order`.

    Args:
        homes: One for each arm, always in the same order.
    Returns: Slots whose weights are >= 0 and sum to `TOTAL`; stable may have several.
    Raises: ValueError: If there is a `misfit`.
    """
    if wrong := misfit(homes, lane):
        raise ValueError(wrong)
    begins, laid_out, place = _begins(homes, lane), order(len(homes), lane), 0
    found: list[Slot] = []
    for arm, following in zip(laid_out, (*laid_out[1:], None), strict=True):
        until = TOTAL if following is None else begins[following]
        found.append(Slot(arm, until - place if arm is None else weight(homes[arm].share_bp)))
        place += found[-1].weight
    return tuple(found)


def _begins(homes: Sequence[Home], lane: Lane) -> list[int]:
    """Where each arm's interval begins."""
    begins: list[int] = []
    edge_bp, slack_bp = lane.start_bp, lane.width_bp - sum(home.reserve_bp for home in homes)
    for first in range(0, len(homes), 2):
        pair = homes[first : first + 2]
        end_bp = edge_bp + sum(home.reserve_bp for home in pair) + slack_bp
        begins += [weight(edge_bp)] if len(pair) == 2 else []
        begins.append(weight(end_bp) - weight(pair[-1].share_bp))
        edge_bp, slack_bp = end_bp, 0
    return begins


def pick(number: int, laid_out: Sequence[Slot]) -> int | None:
    """The arm Envoy picks for a random number or hash, None = stable: `number % TOTAL` walked through the slots in order.

    Source: Envoy `weighted_cluster_specifier.cc`; checked on Envoy 1.40, 4 000 of 4 000 picks.
    """
    place = number % TOTAL
    for slot in laid_out:
        if place < slot.weight:
            return slot.arm
        place -= slot.weight
    raise AssertionError("unreachable: the weights sum to the total")


def allocate(wanted: Mapping[str, int], held: Mapping[str, Lane]) -> dict[str, Lane]:
    """Lanes for the rollouts of one layer: who has one keeps it if it is still wide enough, the others get the first gaps, by name.

    Args:
        wanted: Width by rollout [hundredths of a per cent].
        held: What some of them have now, without overlap.
    Returns: By rollout; one for which there is no gap is left out.
    """
    given = {name: lane for name, lane in held.items() if wanted.get(name, FULL_BP + 1) <= lane.width_bp}
    for name in sorted(wanted.keys() - given.keys()):
        edge_bp = 0
        for lane in sorted((lane for lane in given.values() if lane.width_bp), key=lambda lane: lane.start_bp):
            if lane.start_bp - edge_bp >= wanted[name]:
                break
            edge_bp = lane.end_bp
        if edge_bp + wanted[name] <= FULL_BP:
            given[name] = Lane(start_bp=edge_bp, width_bp=wanted[name])
    return given
