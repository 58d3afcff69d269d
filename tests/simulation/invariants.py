"""What must be true at any moment of any life, each with a name and one sentence; `INVARIANTS` are asked after every event.

The `Journal` keeps what is needed to ask: it measures by itself what the engine claims (holds served, ACKs given, shares before a freeze).
An invariant never asks the function it is about: shares, holds and promotions are worked out here once more, from the policy and the state.
"""

from collections import defaultdict
from itertools import combinations

from pydantic import TypeAdapter

from policies import engine, verdicts, wish
from policies.gates import Verdict
from policies.lanes import TOTAL, Home, slots
from policies.rollout import (
    Commanded,
    Decision,
    Delivered,
    Mode,
    Persist,
    PodsProbed,
    PolicyChanged,
    Probed,
    Restarted,
    Rollout,
    Ticked,
)
from policies.spec.policy import Role
from policies.steps import stages

ROLLOUT = TypeAdapter(Rollout)
BY_HAND = {"promoted_by_hand", "advanced_by_hand"}
EDITED = {"step_edited", "retried"}
FORWARD = {Decision.ENTERED, Decision.ADVANCED, Decision.PROMOTED}


LONGEST_TICK_S = 5.0
"""What one event may add to a hold at most [s], as the engine promises."""


class Violation(AssertionError):  # noqa: N818 - named as what it is
    """An invariant does not hold."""


def broken(name, *facts):
    raise Violation(f"{name}: " + ", ".join(map(str, facts)))


class Journal:
    """What happened, measured by the simulation itself."""

    def __init__(self):
        self.wishes = defaultdict(list)
        self.served_s = defaultdict(float)
        self.acked = {}
        self.frozen_at = {}
        self.last = {}

    def published(self, sim, traffic):
        """A wish goes out: noted, and held against what is on the disk."""
        a_decision_is_saved(sim, traffic)
        self.wishes[traffic.rollout].append((sim.time, traffic))

    def told(self, sim, record):
        """A decision is told: it is on the disk, unless the store is away."""
        if not sim.store.failing and not any(record.reason.code.encode() in body for body in sim.disk.records.get(record.rollout, ())):
            broken("a_decision_is_saved_before_it_is_published", record.decision, "was told and is not on the disk")

    def passed(self, sim, seconds):
        """Time in which a stage was in force at every proxy counts as its hold."""
        for state in sim.states.values():
            if state.delivery.complete and not state.paused:
                self.served_s[hold_of(state)] += seconds

    def jumped(self):
        """A jump of the clock may count as much as the longest tick, no more."""
        for key in list(self.served_s):
            self.served_s[key] += LONGEST_TICK_S

    def note(self, sim, moment):
        if moment.step is None:
            return
        before, state, event = moment.before, moment.step.state, moment.event
        self.served_s.setdefault(hold_of(state), 0.0)
        if isinstance(event, Restarted):
            self.acked.pop(moment.name, None)
        if isinstance(event, Delivered) and event.publication == before.publication:
            self.acked[moment.name] = event.delivery.complete
        if state.freezes and not before.freezes:
            # what an event gives is given before it is judged; a window or a person freezes what was there
            judged = state.freezes[0].source == "gate"
            self.frozen_at[moment.name] = shares_of(wish.traffic(state if judged else before))
        elif not state.freezes:
            self.frozen_at.pop(moment.name, None)


def quiet(moment):
    """Whether nothing went out and no time passed."""
    return moment.step is None or not (moment.step.effects or isinstance(moment.event, Ticked))


def hold_of(state):
    """Names one stay in one stage; the same after a restart."""
    return state.name, state.generation, state.since, state.mode.value


def shares_of(traffic):
    return {arm.variant.identity: arm.share_bp for arm in traffic.arms} if traffic is not None else {}


def records_of(step):
    return [record for effect in step.effects if isinstance(effect, Persist) for record in effect.records]


def oracle(state, arm):
    """The most an arm may have, worked out from the policy, the pods and the freeze alone."""
    if state.mode is not Mode.STEP or arm.out is not None or not arm.pods.total:
        return 0
    flat = stages(state.policy)
    at = state.orphan or (flat[state.position] if state.position < len(flat) else None)
    said = dict(at.shares).get(arm.name, 0) if at is not None else 0
    return min(said, 10_000 * arm.pods.ready // arm.pods.total)


def share_never_exceeds_what_the_state_allows(sim, moment):
    """A share in force at a proxy was allowed by the state when it was published, and is no older than its lease."""
    if moment.step is not None:
        state = moment.step.state
        have = shares_of(wish.traffic(state))
        for arm in state.arms:
            if have.get(arm.variant.identity, 0) > oracle(state, arm):
                broken("share_never_exceeds_what_the_state_allows", moment.name, arm.name, have, oracle(state, arm), state.mode)
    if quiet(moment):
        return
    history = sim.journal.wishes[moment.name]
    for proxy in (*sim.proxies, *sim.gone):
        heard = proxy.heard.get(moment.name)
        if heard is None or not any(arm.share_bp or arm.pinned for arm in proxy.arms(moment.name, sim.time)):
            continue
        last = max((index for index, (_, traffic) in enumerate(history) if traffic == heard.traffic), default=None)
        if last is None:
            broken("share_never_exceeds_what_the_state_allows", moment.name, proxy.name, "has what was never published")
        if last + 1 < len(history) and sim.time > history[last + 1][0] + heard.traffic.lease.ttl_s:
            broken(
                "share_never_exceeds_what_the_state_allows",
                moment.name,
                proxy.name,
                "is older than its lease",
                sim.time,
                history[last + 1][0],
            )


def revert_always_ends_at_all_stable(sim, moment):
    """While a rollout reverts no arm is wanted to have anything, and it is reverted only when no connected proxy gives one a share."""
    if moment.step is None or moment.step.state.mode not in {Mode.REVERTING, Mode.REVERTED}:
        return
    state = moment.step.state
    wanted = wish.traffic(state)
    if any(arm.share_bp or arm.shadow_bp or arm.pinned for arm in wanted.arms):
        broken("revert_always_ends_at_all_stable", moment.name, wanted.arms)
    if state.mode is Mode.REVERTED and moment.before.mode is Mode.REVERTING and isinstance(moment.event, Delivered):
        for proxy in sim.proxies:
            rejects = (mail := sim.world.acked.get((proxy.name, moment.name))) is not None and not mail.good
            if proxy.share_bp(moment.name, sim.time) and not rejects:
                broken("revert_always_ends_at_all_stable", moment.name, proxy.name, proxy.arms(moment.name, sim.time))


def no_step_without_its_hold_after_restarts(sim, moment):
    """A stage that ends by itself was in force for its hold, by a clock that is not the engine's, however often the process died."""
    if moment.step is None:
        return
    before = moment.before
    served = sim.journal.served_s[hold_of(before)]
    if before.mode in {Mode.STEP, Mode.BAKING} and before.held_s > served + 0.001:
        broken("no_step_without_its_hold_after_restarts", moment.name, f"claims {before.held_s}, was {served}")
    for record in records_of(moment.step):
        at = wish.stage(before)
        if record.decision in FORWARD and record.reason.code == "stage_passed" and at is not None:
            # one event can add what passed since the last, which the journal has already
            if served + 0.001 < at.hold.for_s:
                broken("no_step_without_its_hold_after_restarts", moment.name, at.label, f"{served} of {at.hold.for_s}")
            if min(arm.samples for arm in before.running if arm.name) < 0:
                broken("no_step_without_its_hold_after_restarts", moment.name, "samples")


def at_most_one_step_per_acked_publication(sim, moment):
    """A release moves on by one stage at a time, and not before every proxy ACKed the publication of the stage it stands in."""
    if moment.step is None:
        return
    moves = [record for record in records_of(moment.step) if record.decision in FORWARD]
    if len(moves) > 1:
        broken("at_most_one_step_per_acked_publication", moment.name, [record.decision for record in moves])
    for record in moves:
        free = record.reason.code in EDITED or (record.reason.code == "promoted_by_hand" and moment.before.mode is Mode.STEP)
        if not free and not sim.journal.acked.get(moment.name):
            broken("at_most_one_step_per_acked_publication", moment.name, record.decision, record.reason.code)
        edited = free or isinstance(moment.event, PolicyChanged)
        if record.decision is Decision.ADVANCED and not edited and moment.step.state.position != moment.before.position + 1:
            broken("at_most_one_step_per_acked_publication", moment.name, moment.before.position, moment.step.state.position)
        sim.journal.acked[moment.name] = False
    if moment.step.state.publication != moment.before.publication:
        sim.journal.acked[moment.name] = False


def nothing_promotes_itself_without_every_goal_pass(_, moment):
    """A promotion by itself needs PASS of every goal of that arm, and of its guardrails and signals where the stage asked them."""
    promoted = [record for record in records_of(moment.step) if record.decision is Decision.PROMOTED] if moment.step else []
    if not promoted or promoted[0].reason.code in {*BY_HAND, "no_steps"}:
        return
    now = moment.step.state.clock
    judged = engine._handled(moment.before, moment.event, now).state
    at = wish.stage(judged)
    arm = next(arm for arm in judged.arms if arm.variant.identity == moment.step.state.stable.identity)
    said = {reading.name: reading.verdict for reading in verdicts.readings(judged, arm, now=now)}
    for gate in judged.policy.gates:
        asked = gate.role is Role.GOAL or (at.waits_for_evidence and at.share_of(arm.name))
        if asked and said.get(gate.name) is not Verdict.PASS:
            broken("nothing_promotes_itself_without_every_goal_pass", moment.name, gate.name, gate.role, said, at.label)


def freeze_means_no_growth(sim, moment):
    """While a rollout is frozen no arm gets more than it had when that began."""
    had = sim.journal.frozen_at.get(moment.name)
    if moment.step is None or had is None:
        return
    for identity, share_bp in shares_of(wish.traffic(moment.step.state)).items():
        if share_bp > had.get(identity, 0):
            broken("freeze_means_no_growth", moment.name, identity, share_bp, had)


def the_same_event_twice_is_once(sim, moment):
    """A command with its key, a delivery, a probe or what is known of pods, told a second time at once, changes nothing more."""
    if moment.step is None or not isinstance(moment.event, (Commanded, Delivered, Probed, PodsProbed)):
        return
    last, sim.journal.last[moment.name] = sim.journal.last.get(moment.name), moment
    if isinstance(moment.event, Commanded) and not moment.event.key:
        return
    if last is None or last.event is not moment.event or last.step.state is not moment.before:
        return
    if records_of(last.step) and last.step.state.publication == last.before.publication:
        return  # what follows has the same publication: that it is delivered is news of what follows
    told = {record.decision for record in records_of(moment.step)}
    if told == {Decision.RESUMED} and last.step.state.publication != last.before.publication:
        return  # what held it waits for its ACK now: any event tells that, not this one
    if moment.step.effects or moment.step.state != moment.before:
        broken("the_same_event_twice_is_once", moment.name, moment.event, [record.decision for record in records_of(moment.step)])


def layers_never_share_a_user(sim, moment):
    """At no proxy does a user of one rollout's arms get an arm of another rollout of the same layer, nor would one by what is published."""
    if quiet(moment):
        return
    for proxy in (*sim.proxies, sim.world):
        layers = defaultdict(list)
        for name in proxy.heard if proxy is not sim.world else proxy.wishes:
            heard = proxy.heard[name].traffic if proxy is not sim.world else proxy.wishes[name]
            alive = proxy is sim.world or sim.time <= proxy.heard[name].lease_until
            if alive and heard.assignment.layer and any(arm.share_bp for arm in heard.arms):
                layers[heard.assignment.layer].append((name, intervals(heard)))
        for layer, some in layers.items():
            for (one, first), (other, second) in combinations(some, 2):
                if any(a < d and c < b for a, b in first for c, d in second):
                    broken("layers_never_share_a_user", layer, one, other, first, second, "at", getattr(proxy, "name", "the world"))


def intervals(traffic):
    """[from, to) of the hash space that arms have."""
    found, place = [], 0
    for slot in slots([Home(share_bp=arm.share_bp, reserve_bp=arm.reserve_bp) for arm in traffic.arms], traffic.lane):
        if slot.arm is not None and slot.weight:
            found.append((place, place + slot.weight))
        place += slot.weight
    return found


def what_is_published_is_what_the_state_says(sim, moment):
    """After every event the newest wish is that of the state, to the letter."""
    entry = sim.conductor.entries.get(moment.name)
    if entry is None:
        return
    if sim.world.wishes.get(moment.name) != wish.traffic(entry.state):
        broken("what_is_published_is_what_the_state_says", moment.name, entry.state.mode)


def a_decision_is_saved_before_it_is_published(*_):
    """What goes out or is told is on the disk first, unless the store is away and it gives no arm more than it had."""
    # asked where it happens: `Journal.published` and `Journal.told`


def a_decision_is_saved(sim, traffic):
    stored = sim.disk.states.get(traffic.rollout)
    if stored is not None and wish.traffic(ROLLOUT.validate_json(stored[1])) == traffic:
        return
    before = sim.world.wishes.get(traffic.rollout)
    had = {arm.variant.identity: arm for arm in before.arms} if before is not None else {}
    grown = [
        arm.variant.name
        for arm in traffic.arms
        if arm.share_bp > (had[arm.variant.identity].share_bp if arm.variant.identity in had else 0)
        or arm.shadow_bp > (had[arm.variant.identity].shadow_bp if arm.variant.identity in had else 0)
    ]
    moved = before is not None and before.lane != traffic.lane and any(arm.share_bp for arm in traffic.arms)
    if not sim.store.failing or grown or moved:
        broken(
            "a_decision_is_saved_before_it_is_published", traffic.rollout, "grown" if grown else "moved" if moved else "not saved", traffic
        )


def stable_takes_what_is_left(_, moment):
    """Every wish can be laid out, each arm has exactly its share and stable all the rest."""
    wanted = wish.traffic(moment.step.state) if not quiet(moment) else None
    if wanted is None:
        return
    homes = [Home(share_bp=arm.share_bp, reserve_bp=arm.reserve_bp) for arm in wanted.arms]
    try:
        laid_out = slots(homes, wanted.lane)
    except ValueError as error:
        broken("stable_takes_what_is_left", moment.name, error)
    arms = [sum(slot.weight for slot in laid_out if slot.arm == index) for index in range(len(homes))]
    stable = sum(slot.weight for slot in laid_out if slot.arm is None)
    if arms != [home.share_bp * TOTAL // 10_000 for home in homes] or stable != TOTAL - sum(arms) or stable < 0:
        broken("stable_takes_what_is_left", moment.name, laid_out)


INVARIANTS = (
    share_never_exceeds_what_the_state_allows,
    revert_always_ends_at_all_stable,
    no_step_without_its_hold_after_restarts,
    at_most_one_step_per_acked_publication,
    nothing_promotes_itself_without_every_goal_pass,
    freeze_means_no_growth,
    the_same_event_twice_is_once,
    layers_never_share_a_user,
    what_is_published_is_what_the_state_says,
    a_decision_is_saved_before_it_is_published,
    stable_takes_what_is_left,
)
