"""What `plan` answers, as values. Times are seconds, of a stage from its start; "half" and "80 %" are of the simulated rollouts."""

from collections.abc import Iterable
from dataclasses import dataclass

from policies.planning.load import Load
from policies.planning.phases import Flow, Phase
from policies.spec.policy import Gate, Margin, Metric, Role, RolloutPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """One size of trouble (of a goal: of improvement) that begins with the stage.

    Attributes:
        amount: An error rate, or a factor on stable's latency.
        beyond: Whether it is more than the margin allows; else it counts as as good (of a goal: as not better) and nothing else is known.
        chance: Probability that it is seen while the stage holds in any case, 0 to 1.
        time_s: Until it is reverted in half of the runs [s]; None = it is not in so many before the stage's deadline.
        sure_s: The same in 80 % [s].
        harm: Bad answers of the candidate until then in half of the runs; of a latency gate its answers [requests].
        harm_most: The same in 95 %.
    """

    amount: float
    beyond: bool
    chance: float = 0.0
    time_s: float | None = None
    sure_s: float | None = None
    harm: float | None = None
    harm_most: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """One gate in one stage.

    Attributes:
        copies: Whether it looks at mirrored copies.
        needed: Odds that a FAIL (of a goal: a PASS) needs.
        base: The amount of a candidate as good as stable.
        window_s: As long as the stage lasts in any case; without a hold until half of the good candidates pass [s].
        smallest: The least amount that is seen with probability 80 % in the window; None = none is.
        detections: From small to large.
        pass_s: Until half of the good candidates pass [s]; None = fewer do, as long as was looked (of a promote: not asked).
        pass_sure_s: Until 80 % do [s].
        pass_requests: Requests of the candidate in `pass_s`.
        pass_chance: Probability that a good candidate passes before the stage's deadline; None = it need not.
        radius: Whether it is what `errors.blast_radius` asks before the share grows: only its PASS counts, and nothing is looked for.
        margin: Where fewer than 80 % do: the gate's margin, wider, with which they would; None = none that is tried.
    """

    gate: Gate
    copies: bool
    needed: float
    base: float
    window_s: float
    smallest: float | None
    detections: tuple[Detection, ...]
    pass_s: float | None
    pass_sure_s: float | None
    pass_requests: float | None
    pass_chance: float | None
    radius: bool = False
    margin: Margin | None = None

    @property
    def name(self) -> str:
        return f"{self.gate.name} (copies)" if self.copies else self.gate.name


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """One stage for arms that have the same shares throughout.

    Attributes:
        flows: What the arm and stable get: of users, of copies.
        hold_s: As long as the stage lasts in any case: its hold and its samples; of a promote as long as stable is kept [s].
        samples_s: Until the samples are there [s].
        least_s: As long as it lasts for half of the good candidates [s]; None = longer than it may.
        sure_s: The same for 80 %.
        bottleneck: What it waits for longest: "hold", "samples", or the name of a gate.
        suggested_hold_s: The least hold in which every guardrail sees what no stage should miss, with probability 80 % [s]; None = none is.
        skippable: Whether the next share would take back a total failure with hardly more bad answers.
    """

    phase: Phase
    flows: tuple[Flow, ...]
    hold_s: float
    samples_s: float
    least_s: float | None
    sure_s: float | None
    bottleneck: str
    gates: tuple[GatePlan, ...]
    suggested_hold_s: float | None = None
    skippable: bool = False

    @property
    def blast(self) -> tuple[float, float] | None:
        """Bad answers users get of a total failure until it is reverted: in half of the runs, in 95 %; None = no guardrail sees it in time."""
        found = [
            (last.harm, last.harm_most)
            for each in self.gates
            if each.gate.role is Role.GUARDRAIL and each.gate.metric is Metric.ERROR_RATE and not each.copies
            for last in each.detections[-1:]
            if last.harm is not None and last.harm_most is not None
        ]
        return min(found, key=lambda pair: pair[1], default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoursePlan:
    """All stages for arms that have the same shares throughout.

    Attributes:
        arms: Their names.
        shorter: The stages until the promotion with the suggested holds and without the shares that can be skipped; without `gates`.
    """

    arms: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    shorter: tuple[StagePlan, ...] = ()

    @property
    def least_s(self) -> float | None:
        """Until the promotion for half of the good candidates, approvals excluded [s]; None = a stage does not end in time."""
        return _total(stage for stage in self.stages if stage.phase.stage.kind != "promote")

    @property
    def shortest_s(self) -> float | None:
        """The same of `shorter` [s]."""
        return _total(self.shorter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The whole answer."""

    policy: RolloutPolicy
    load: Load
    courses: tuple[CoursePlan, ...]


def _total(stages: Iterable[StagePlan]) -> float | None:
    times = [stage.least_s for stage in stages if stage.phase.stage.kind != "approve"]
    return None if None in times else sum(each for each in times if each is not None)
