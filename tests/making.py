"""Small makers of policies, blocks and engine runs for tests."""

from dataclasses import dataclass, field, replace

from policies import engine
from policies.evidence import Block, Counts, latency_bin
from policies.rollout import (
    Commanded,
    Delivered,
    Delivery,
    Event,
    EvidenceArrived,
    Mode,
    Notify,
    Pods,
    PodsProbed,
    Record,
    Rollout,
    Step,
    Ticked,
    Verb,
)
from policies.spec.policy import (
    Assignment,
    CanaryStep,
    Gate,
    Hold,
    Margin,
    Metric,
    PromoteStep,
    RolloutPolicy,
    ShadowStep,
    StaticEndpoints,
    TrafficSpec,
    Variant,
)

ERRORS = Gate(name="errors", metric=Metric.ERROR_RATE, margin=Margin(absolute=0.05))
LATENCY = Gate(name="latency", metric=Metric.LATENCY, margin=Margin(relative=0.5))
HOLD = Hold(for_s=2.0, samples=20)


def variant(name, version, port=8000, **more):
    return Variant(name=name, version=version, endpoints=StaticEndpoints(addresses=(f"127.0.0.1:{port}",)), **more)


def shadow(share_bp, hold=HOLD, arm="candidate"):
    return ShadowStep(shares=((arm, share_bp),), hold=hold)


def canary(*shares_bp, hold=HOLD, arm="candidate"):
    """Stages of one arm; a dictionary names the shares of several."""
    stages = [tuple(each.items()) if isinstance(each, dict) else ((arm, each),) for each in shares_bp]
    return CanaryStep(stages=tuple((stage, hold) for stage in stages))


def policy(**changes):
    """shadow 10 %, canary 10 % and 50 %, promote; one error gate. Sticky, so that tests may give the arms as many requests as they like."""
    made = RolloutPolicy(
        name="chat",
        traffic=TrafficSpec(proxies="edge", listener="public"),
        stable=variant("stable", "v1", 8001),
        arms=(variant("candidate", "v2", 8002),),
        steps=(shadow(1000), canary(1000, 5000), PromoteStep(keep_stable_for_s=2.0)),
        gates=(ERRORS,),
        assignment=Assignment(sticky_header="x-user-id"),
    )
    return replace(made, **changes)


def counts(requests, errors=0, latency_ms=100.0):
    bins = ((latency_bin(latency_ms), requests),) if requests else ()
    return Counts(requests=requests, errors=errors, latency=bins)


@dataclass
class Run:
    """A rollout driven by hand with its own clock; `records` is all it decided."""

    state: Rollout
    now: float = 1000.0
    records: list[Record] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of(cls, document):
        run = cls(state=None)
        run.take(engine.adopt(document, now=run.now))
        return run

    def take(self, step):
        self.state = step.state
        self.steps.append(step)
        self.records.extend(effect.record for effect in step.effects if isinstance(effect, Notify))
        return step

    def on(self, event: Event):
        return self.take(engine.step(self.state, event, now=self.now))

    def command(self, verb: Verb, **said):
        return self.on(Commanded(verb=verb, **said))

    def ack(self, selected=1, acked=None, **more):
        delivery = Delivery(selected=selected, acked=selected if acked is None else acked, **more)
        return self.on(Delivered(publication=self.state.publication, delivery=delivery))

    @property
    def arm(self):
        """The only arm, or the first."""
        return self.state.arms[0]

    def ready(self, ready=1, total=1, arm=0):
        return self.on(PodsProbed(identity=self.state.arms[arm].variant.identity, pods=Pods(ready=ready, total=total)))

    def evidence(self, stable=None, candidate=None, shadow=None, **others):
        """One block; `candidate` is the first arm whatever its name, `others` are arms by name."""
        users, shadows = {}, {}
        if stable is not None:
            users[self.state.stable.identity] = stable
        if candidate is not None:
            users[self.arm.variant.identity] = candidate
        if shadow is not None:
            shadows[self.arm.variant.identity] = shadow
        for arm in self.state.arms:
            if arm.name in others:
                users[arm.variant.identity] = others[arm.name]
        return self.on(EvidenceArrived(block=Block(start=self.now - 0.1, end=self.now, users=users, shadows=shadows)))

    def wait(self, seconds, every=0.5):
        """Ticks only: nobody sends a request."""
        for _ in range(round(seconds / every)):
            self.now += every
            self.on(Ticked())

    def serve(self, seconds, *, bad=0.0, until=None, latency_ms=100.0):
        """Live traffic: 9 stable and 1 candidate requests each 0.1 s while the share is in effect, a `bad` part of the latter failing."""
        owed = 0.0
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            if not self.state.delivery.complete:
                self.ack()
            if self.state.mode is Mode.WARMING:
                for index, arm in enumerate(self.state.arms):
                    if not arm.pods.ready:
                        self.ready(arm=index)
            owed += bad
            errors, owed = int(owed), owed - int(owed)
            live = self.state.mode is Mode.STEP and self.state.arms
            self.evidence(
                counts(9),
                counts(1, errors, latency_ms) if live and self.arm.in_effect_bp else None,
                counts(1, errors, latency_ms) if live and self.arm.shadow_in_effect_bp else None,
            )
            self.on(Ticked())
            if until is not None and self.state.mode is until:
                return

    def decisions(self):
        return [record.decision.value for record in self.records]

    def reasons(self):
        return [record.reason.code for record in self.records]
