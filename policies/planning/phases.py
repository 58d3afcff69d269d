"""The stages of a policy as a planner sees them: who gets how many requests, what ends a stage, where it stands in the document."""

from collections.abc import Iterator
from dataclasses import dataclass

from policies import yardstick
from policies.planning.runs import BLOCK_S
from policies.spec.policy import FULL_BP, CanaryStep, Hold, RolloutPolicy
from policies.spec.reader import Path
from policies.steps import Stage, stages


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stage.

    Attributes:
        position: Its place among all stages, from 0.
        path: Of the step in the document.
        hold_path: Of the stage's hold.
        share_path: Of its share.
        last: Whether the next stage promotes: goals are asked.
        horizon_s: How long it may last [s].
    """

    stage: Stage
    position: int
    path: Path
    hold_path: Path
    share_path: Path
    last: bool
    horizon_s: float

    @property
    def watches(self) -> bool:
        """Whether gates have something to look at for some time; an approval takes as long as it takes."""
        return self.stage.kind not in {"probe", "approve"} and (self.stage.kind != "promote" or self.stage.keep_stable_for_s > 0)


def phases(policy: RolloutPolicy) -> tuple[Phase, ...]:
    """All stages in order."""
    flat = stages(policy)
    found: list[Phase] = []
    for stage, (path, hold_path, share_path) in zip(flat, _paths(policy), strict=True):
        following = flat[len(found) + 1] if len(found) + 1 < len(flat) else None
        horizon_s = stage.within_s if stage.kind in {"ab", "approve"} else policy.when.stuck_after_s
        last = following is not None and following.kind == "promote"
        found.append(
            Phase(
                stage=stage,
                position=len(found),
                path=path,
                hold_path=hold_path,
                share_path=share_path,
                last=last,
                horizon_s=max(horizon_s, BLOCK_S),
            )
        )
    return tuple(found)


def _paths(policy: RolloutPolicy) -> Iterator[tuple[Path, Path, Path]]:
    for index, step in enumerate(policy.steps):
        path: Path = ("spec", "steps", index, step.kind)
        if not isinstance(step, CanaryStep):
            yield path, (*path, "hold"), (*path, "share")
            continue
        several = len({hold for _, hold in step.stages}) > 1
        for place in range(len(step.stages)):
            yield path, ((*path, "hold", place) if several else (*path, "hold")), (*path, "shares", place)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Requests of an arm and of what it is held against [requests/s]; 0 = none. `copies`: of requests that stable answers."""

    arm: float
    against: float
    copies: bool = False


def flows(stage: Stage, arm: str, rps: float) -> tuple[Flow, ...]:
    """What an arm has in a stage: of users, of copies."""
    taken = FULL_BP if stage.kind == "promote" else stage.share_bp
    stable = rps * max(FULL_BP - taken, 0) / FULL_BP
    users = rps * (FULL_BP if stage.kind == "promote" else stage.share_of(arm)) / FULL_BP
    copies = rps * stage.copies_of(arm) / FULL_BP
    remembered = min(users, yardstick.PER_BLOCK / BLOCK_S)
    found = [Flow(arm=users, against=stable if taken < FULL_BP else remembered)] if users else []
    return (*found, *([Flow(arm=copies, against=stable, copies=True)] if copies and stable else []))


def samples_s(hold: Hold, flow: Flow, *, full: bool) -> float:
    """Until a hold has its samples of the arm and of stable [s]; `full`: stable has no traffic and is not asked."""
    slowest = flow.arm if full else min(flow.arm, flow.against)
    return hold.samples / slowest if hold.samples else 0.0
