"""Which variant a user gets, without a proxy: the same segments, the same hash, the same intervals that the proxies have.

Neighbours: `policies.lanes` lays the intervals out; the hash itself is made outside (XXH64 of `xds_server.resources.names.salted`); `crossfade assign` and the
feature-flag API (`xds_server.services.ofrep`) ask here. Source: `xds_server.resources.routes`, which tells the proxies the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from policies import wish
from policies.lanes import WHOLE, Home, Lane, Slot, misfit, pick, slots
from policies.rollout import IN_RELEASE, Rollout
from policies.spec.policy import FULL_BP, STABLE, Assignment, Compare, HeaderMatch, RolloutPolicy, Segment, Shares
from policies.steps import Stage, reserves, stages

NOW: Final = "now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One arm's place at one moment; the fields are those of `policies.traffic.Arm`."""

    name: str
    share_bp: int = 0
    reserve_bp: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Who gets what at one moment.

    Attributes:
        label: "now", or the stage's.
        step: Number of the stage as people count, 0 = none.
        places: The arms that differ from stable, in their order.
        promoted: The arm that is stable then: everybody's, whatever segments say; "" = none.
    """

    label: str = NOW
    step: int = 0
    places: tuple[Place, ...] = ()
    lane: Lane = WHOLE
    promoted: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All that is needed to say what a user of one rollout gets.

    Attributes:
        versions: (variant, version) pairs, stable first.
        now: What the proxies do, as far as they have ACKed it.
        steps: The stages that are still to come; () = nothing is on its way.
    """

    rollout: str
    generation: int = 0
    assignment: Assignment
    versions: tuple[tuple[str, str], ...]
    now: Layout
    steps: tuple[Layout, ...] = ()


class Ground(StrEnum):
    """Why a user gets a variant."""

    SEGMENT = "segment"
    SHARE = "share"
    EVERYBODY = "everybody"
    """No other variant can be had now."""
    DRAWN = "drawn"
    """Every request is drawn anew; nobody can say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`segment` "" = none fits."""

    variant: str
    ground: Ground
    segment: str = ""


def answer(assignment: Assignment, layout: Layout, *, number: int, headers: Mapping[str, str]) -> Answer:
    """What a user gets.

    Args:
        number: The hash of the user.
        headers: Of the request, names in lower case.
    """
    if layout.promoted:
        return Answer(variant=layout.promoted, ground=Ground.EVERYBODY)
    segment = segment_of(assignment.segments, headers)
    if segment is not None:
        pinned = any(place.pinned and place.name == segment.variant for place in layout.places)
        return Answer(variant=segment.variant if pinned else STABLE, ground=Ground.SEGMENT, segment=segment.name)
    laid_out = intervals(layout)
    given = {slot.arm for slot in laid_out if slot.weight}
    if len(given) == 1:
        return Answer(variant=_name(layout, given.pop()), ground=Ground.EVERYBODY)
    if not assignment.sticky:
        return Answer(variant=STABLE, ground=Ground.DRAWN)
    return Answer(variant=_name(layout, pick(number, laid_out)), ground=Ground.SHARE)


def share_of(layout: Layout, variant: str) -> float:
    """A variant's part of all users that no segment takes, 0 to 1."""
    shares = {place.name: place.share_bp for place in layout.places}
    return (FULL_BP - sum(shares.values()) if variant == STABLE else shares.get(variant, 0)) / FULL_BP


def _name(layout: Layout, arm: int | None) -> str:
    return STABLE if arm is None else layout.places[arm].name


@lru_cache(maxsize=4096)
def intervals(layout: Layout) -> tuple[Slot, ...]:
    """The intervals of a moment; arms that outgrew their homes or their lane, as by a switch, have those they fill."""
    reserved = tuple(Home(share_bp=place.share_bp, reserve_bp=max(place.share_bp, place.reserve_bp)) for place in layout.places)
    filled = tuple(Home(share_bp=place.share_bp, reserve_bp=place.share_bp) for place in layout.places)
    ways = ((reserved, layout.lane), (filled, layout.lane), (filled, WHOLE))
    return slots(*next(way for way in ways if not misfit(*way)))


# Where the layouts come from.


def placement(state: Rollout) -> Placement | None:
    """What a running rollout does and will do; None if it owns no traffic."""
    wanted = wish.traffic(state)
    if wanted is None:
        return None
    given = {arm.name: arm.in_effect_bp for arm in state.arms}
    settled = state.delivery.complete
    stable = state.stable.identity
    arms = tuple(arm for arm in wanted.arms if arm.variant.identity != stable)
    now = tuple(
        Place(
            name=arm.variant.name,
            share_bp=given[arm.variant.name],
            reserve_bp=arm.reserve_bp,
            pinned=arm.pinned and (settled or given[arm.variant.name] > 0),
        )
        for arm in arms
    )
    out = frozenset(arm.name for arm in state.arms if arm.out is not None)
    after = state.position + 1 if wish.stage(state) is not None else 0
    return Placement(
        rollout=state.name,
        generation=state.generation,
        assignment=state.policy.assignment,
        versions=((STABLE, state.stable.version), *((arm.variant.name, arm.variant.version) for arm in arms)),
        now=Layout(places=now, lane=state.lane),
        steps=_coming(state.policy, tuple(place.name for place in now), after, state.lane, out) if state.mode in IN_RELEASE else (),
    )


def planned(policy: RolloutPolicy, *, lane: Lane = WHOLE, shares: Shares = (), step: int = 0) -> Placement:
    """What a policy would do.

    Args:
        shares: Those of now.
        step: Number of the stage that is now; the ones behind it are to come. 0 = none yet.
    """
    arms = tuple(arm.name for arm in policy.arms if arm.identity != policy.stable.identity)
    at = stages(policy)[step - 1] if step else Stage(kind="canary", shares=shares, users=bool(shares))
    return Placement(
        rollout=policy.name,
        assignment=policy.assignment,
        versions=tuple((variant.name, variant.version) for variant in (policy.stable, *policy.arms)),
        now=Layout(label=at.label if step else NOW, step=step, places=_places(policy, arms, at, lane), lane=lane),
        steps=_coming(policy, arms, step, lane),
    )


def _coming(policy: RolloutPolicy, arms: tuple[str, ...], after: int, lane: Lane, out: frozenset[str] = frozenset()) -> tuple[Layout, ...]:
    """The stages from an index on; a promotion whose arm nobody knows yet is left out.

    Args:
        out: Arms that were taken out: they keep their homes and get nothing.
    """
    found, left = [], [arm for arm in arms if arm not in out]
    for index, at in enumerate(stages(policy)[after:], after):
        promoted = at.arm or (left[0] if len(left) == 1 else "")
        if at.kind != "promote":
            found.append(Layout(label=at.label, step=index + 1, places=_places(policy, arms, at, lane, out), lane=lane))
        elif promoted:
            found.append(Layout(label=at.label, step=index + 1, promoted=promoted))
    return tuple(found)


def _places(policy: RolloutPolicy, arms: tuple[str, ...], at: Stage, lane: Lane, out: frozenset[str] = frozenset()) -> tuple[Place, ...]:
    homes = reserves(policy)
    room = sum(homes.values()) <= lane.width_bp
    named = {segment.variant for segment in policy.assignment.segments}
    return tuple(
        Place(
            name=arm,
            share_bp=at.share_of(arm) if room and arm not in out else 0,
            reserve_bp=homes.get(arm, 0) if room else 0,
            pinned=at.users and arm in named and arm not in out,
        )
        for arm in arms
    )


# Segments.


def segment_of(segments: tuple[Segment, ...], headers: Mapping[str, str]) -> Segment | None:
    """The first segment all of whose conditions fit."""
    return next((each for each in segments if all(fits(wanted, headers.get(wanted.name)) for wanted in each.when)), None)


def fits(wanted: HeaderMatch, value: str | None) -> bool:
    """Whether a header (None = it is not there) is as wanted; takes a time proportional to its length, whatever the expression."""
    if value is None:
        return False
    match wanted.compare:
        case Compare.EXACT:
            return value == wanted.value
        case Compare.PREFIX:
            return value.startswith(wanted.value)
        case Compare.SUFFIX:
            return value.endswith(wanted.value)
        case Compare.CONTAINS:
            return wanted.value in value
        case Compare.PRESENT:
            return True
        case Compare.REGEX:
            return _matches(wanted.value, value)


_ASCII: Final = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]", "s": r"[\t\n\f\r ]", "S": r"[^\t\n\f\r ]"}
"""RE2's classes are ASCII; those of the engine here are not."""


def _matches(expression: str, value: str) -> bool:
    try:
        _whole(expression).validate_python(value)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=1024)
def _whole(expression: str) -> SchemaValidator:
    """Pydantic's own engine (Rust's `regex`) never backtracks, as RE2; what it does not read, Python does."""
    flags, _, rest = expression.rpartition("(?i)")
    plain = re.sub(r"\\([dDwWsS])|\\.", lambda found: _ASCII[found[1]] if found[1] else found[0], rest)
    fold = "(?i)" if flags or expression.startswith("(?i)") else ""
    try:
        return SchemaValidator(core_schema.str_schema(pattern=rf"{fold}\A(?:{plain})\z", regex_engine="rust-regex"))
    except SchemaError:
        return SchemaValidator(core_schema.str_schema(pattern=rf"{fold}\A(?:{rest})\Z", regex_engine="python-re"))
