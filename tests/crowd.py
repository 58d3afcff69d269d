"""Users for a `tests.making.Run` with any number of arms: who serves is asked of the wish, who fails is said by version."""

from collections import defaultdict

from policies import wish
from policies.evidence import Block
from policies.rollout import EvidenceArrived, Pods, Ticked
from policies.spec.policy import FULL_BP, Gate, Margin, Metric, PromoteStep, Role
from tests.making import ERRORS, HOLD, Run, canary, counts, policy, variant

GOAL = Gate(name="goal", metric=Metric.ERROR_RATE, role=Role.GOAL, margin=Margin(absolute=0.2), better_by=Margin(absolute=0.0))
ARMS = tuple(variant(name, version, port) for name, version, port in (("b", "v2", 8002), ("c", "v3", 8003), ("d", "v4", 8004)))


def several(names="bc", share_bp=1000, *, hold=HOLD, steps=None, **changes):
    """A policy of two or three arms: canary with a share for each, then promote `b`."""
    shares = dict.fromkeys(names, share_bp)
    changes = {"arms": tuple(arm for arm in ARMS if arm.name in names), **changes}
    return policy(steps=steps or (canary(shares, hold=hold), PromoteStep(arm="b")), **changes)


def share(run):
    """What is wanted for each arm, by name [hundredths of a per cent]."""
    return {arm.variant.name: arm.share_bp for arm in wish.traffic(run.state).arms}


def begun(document):
    """A run that stands in its first stage, ACKed."""
    run = Run.of(document)
    run.ack()
    for index in range(len(run.state.arms)):
        run.ready(arm=index)
    run.ack()
    return run


def serve(run, seconds, *, failing=None, until=lambda _: False, each=4):
    """Traffic every 0.1 s, ACKs at once, pods ready unless said otherwise; `failing`: part of its requests that a version fails."""
    owed = defaultdict(float)

    def some(version, requests):
        owed[version] += requests * (failing or {}).get(version, 0.0)
        errors = int(owed[version])
        owed[version] -= errors
        return counts(requests, errors)

    for _ in range(round(seconds * 10)):
        if until(run.state):
            return
        run.now += 0.1
        if not run.state.delivery.complete:
            run.ack()
        for index, arm in enumerate(run.state.arms):
            if arm.pods == Pods():
                run.ready(arm=index)
        users = {arm.variant.identity: some(arm.variant.version, each) for arm in run.state.arms if arm.in_effect_bp}
        shadows = {arm.variant.identity: some(arm.variant.version, each) for arm in run.state.arms if arm.shadow_in_effect_bp}
        if sum(share(run).values()) < FULL_BP:
            users[run.state.stable.identity] = some(run.state.stable.version, 9)
        run.on(EvidenceArrived(block=Block(start=run.now - 0.1, end=run.now, users=users, shadows=shadows)))
        run.on(Ticked())


__all__ = ["ARMS", "ERRORS", "GOAL", "begun", "serve", "several", "share"]
