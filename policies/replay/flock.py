"""Many runs of one policy between two decisions, as arrays: what `policies.intake` and `policies.passing` do to one run's state, for all at once.

Only runs that simply stand in a stage, or bake, are taken along: one arm, its share ACKed, its pods ready, nothing frozen. `Flock.fed` adds a
block to them; `eventful` tells the runs for which the engine could do something at the end of it. Those are given back as the states they had
before the block (`state`), so that it is always the engine that decides, and `put` takes them up again after.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np

from policies import capacity, verdicts, wish, yardstick
from policies.evidence import LATENCY_EDGES_MS, Counts
from policies.ratio import Drawn
from policies.replay.arrays import Ints, Rows, changed
from policies.replay.truth import Counted, Traffic
from policies.replay.watch import Watch, can_watch, dense, histogram, needed_together, read
from policies.rollout import Mode, Rollout, Yardstick
from policies.spec.policy import FULL_BP, AbStep, Metric, RolloutPolicy, Then
from policies.statistics.mixture import Bools, Floats
from policies.steps import Stage, stages

_SECONDS: Floats = np.append(np.minimum(np.array(LATENCY_EDGES_MS) / 1000.0, capacity.LONGEST_S), 0.0)
"""How long a request of each latency bin is in a pod [s], as `policies.capacity` has it."""


def can_flock(policy: RolloutPolicy) -> bool:
    """Whether many runs of a policy can be replayed at once."""
    alone = len(policy.arms) == 1 and not any(isinstance(step, AbStep) for step in policy.steps)
    return alone and policy.blast_radius is None and all(can_watch(gate) for gate in policy.gates)


def stands(state: Rollout) -> bool:
    """Whether a run can be taken along as it is."""
    if state.mode is Mode.BAKING:
        return state.previous is not None and bool(state.arms) and not (state.paused or state.holding) and state.delivery.complete
    at = wish.stage(state)
    if at is None or len(state.arms) != 1 or state.orphan is not None or state.paused or state.freezes or not state.delivery.complete:
        return False
    arm = state.arms[0]
    whole = arm.pods.ready > 0 and arm.ceiling_bp == arm.pods.ready * FULL_BP // arm.pods.total >= at.share_of(arm.name)
    return whole and arm.out is None and arm.cap is None and not arm.probing.words and not state.source_words and wish.fits(state)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What the predicates need of each stage of a policy; one row per stage, and a last one for baking.

    Attributes:
        last: The next stage promotes.
        baseline: The next stage leaves stable nothing, so that enough of it must have been seen.
        unanswered: Silence of whoever is to approve does something.
        draws: Every request is drawn anew, so that it matters who gets how many.
    """

    for_s: Floats
    samples: Ints
    within_s: Floats
    waits: Bools
    shared: Bools
    copied: Bools
    approval: Bools
    probe: Bools
    last: Bools
    baseline: Bools
    unanswered: Bools
    draws: Bools

    @classmethod
    def of(cls, policy: RolloutPolicy) -> Self:
        flat = [*stages(policy), Stage(kind="promote")]
        following = [*flat[1:], flat[-1]]
        arm = policy.arms[0].name if policy.arms else ""
        pairs = list(zip(flat, following, strict=True))
        return cls(
            for_s=np.array([at.hold.for_s if at.waits_for_evidence else 0.0 for at in flat]),
            samples=np.array([at.hold.samples for at in flat]),
            within_s=np.array([at.within_s if at.kind == "approve" else np.inf for at in flat]),
            waits=np.array([at.waits_for_evidence for at in flat]),
            shared=np.array([at.share_of(arm) > 0 for at in flat]),
            copied=np.array([at.copies_of(arm) > 0 for at in flat]),
            approval=np.array([at.kind == "approve" for at in flat]),
            probe=np.array([at.kind == "probe" for at in flat]),
            last=np.array([after.kind == "promote" and at.kind != "promote" for at, after in pairs]),
            draws=np.array([at.share_bp > 0 and not policy.assignment.sticky for at in flat]),
            unanswered=np.array([at.kind == "approve" and at.then is not Then.HOLD for at in flat]),
            baseline=np.array([bool(policy.gates) and after.kind != "promote" and after.share_bp >= FULL_BP for _, after in pairs]),
        )


@dataclass(slots=True, kw_only=True)
class Flock:
    """Per run. `taken` are the runs that are taken along; what stands in the rows of the others means nothing.

    Attributes:
        position: Stage; the row behind the last one while baking.
        alone: Whether stable has no traffic.
        approved, probed: Whether the stage's own question is answered.
        bake_s: How long it bakes [s].
        room: Requests its pods may hold at once [requests].
        known_requests, known_errors, known_latency, used: `policies.yardstick`.
        drawn_stable, drawn_candidate: Requests under the shares in force, as `policies.ratio` has them; `redrawn`: those are new.
    """

    taken: Bools
    position: Ints
    baking: Bools
    alone: Bools
    approved: Bools
    probed: Bools
    bake_s: Floats
    held_s: Floats
    stage_s: Floats
    silent_s: Floats
    ceiling_s: Floats
    samples: Ints
    stable_samples: Ints
    load: Floats
    load_at: Floats
    room: Floats
    known_requests: Ints
    known_errors: Ints
    known_latency: Ints
    used: Ints
    drawn_stable: Ints
    drawn_candidate: Ints
    redrawn: Bools
    watches: tuple[Watch, ...]
    shadows: Watch | None

    @classmethod
    def start(cls, policy: RolloutPolicy, runs: int, bins: tuple[int, int]) -> Self:
        """Nobody is taken along yet."""
        deadline_s = verdicts.deadline_s(policy)
        metrics = dict.fromkeys(gate.metric for gate in policy.gates)
        shadow = verdicts.shadow_gates(policy)
        numbers = {name: np.zeros(runs) for name in ("bake_s", "held_s", "stage_s", "silent_s", "ceiling_s", "load", "load_at")}
        whole = {
            name: np.zeros(runs, dtype=np.int64)
            for name in (
                "position",
                "samples",
                "stable_samples",
                "known_requests",
                "known_errors",
                "used",
                "drawn_stable",
                "drawn_candidate",
            )
        }
        flags = {name: np.zeros(runs, dtype=np.bool_) for name in ("taken", "baking", "alone", "approved", "probed", "redrawn")}
        width = bins[1] - bins[0] if Metric.LATENCY in metrics else 0
        return cls(
            **numbers,  # type: ignore[arg-type]  # fields by name, all arrays
            **whole,  # type: ignore[arg-type]  # fields by name, all arrays
            **flags,  # type: ignore[arg-type]  # fields by name, all arrays
            room=np.full(runs, np.inf),
            known_latency=np.zeros((runs, width), dtype=np.int64),
            watches=tuple(Watch.of(policy.gates, metric, runs=runs, deadline_s=deadline_s, bins=bins) for metric in metrics),
            shadows=Watch.of(shadow, Metric.ERROR_RATE, runs=runs, deadline_s=deadline_s, bins=bins) if shadow else None,
        )

    def fed(self, drawn: Traffic, now: Floats, for_s: Floats, table: Table) -> "Flock":
        """All runs after one more block that ends at `now` and lasted `for_s` [s]."""
        users, copies = drawn.users[0], drawn.copies[0]
        seen = np.where(table.shared[self.position] | self.baking, users.requests, copies.requests)
        load = self.load
        if drawn.stable.latency is not None and users.latency is not None and self.watches:
            first = next((watch.bins[0] for watch in self.watches), 0)
            seconds = _SECONDS[first : first + drawn.stable.latency.shape[1]]
            busy_s = (drawn.stable.latency + users.latency) @ seconds
            since = np.where(self.load_at > 0, np.abs(now - self.load_at), 0.0)
            span = np.minimum(np.maximum(np.maximum(since, for_s), capacity.LEAST_SPAN_S), capacity.MEMORY_S)
            keep = np.exp(-span / capacity.MEMORY_S)
            load = load * keep + busy_s / span * (1 - keep)
        measured = self._measured(drawn.stable, now)
        used, given = self._given(users.requests)
        stable = drawn.stable if given is None else _either(self.alone, given, drawn.stable)
        watches = tuple(watch.fed(watch.columns(stable), watch.columns(users), now) for watch in self.watches)
        shadows = self.shadows
        if shadows is not None and copies.requests.any():
            copied = copies.requests > 0
            mirrored = shadows.columns(copies)
            shadows = shadows.fed(shadows.columns(stable) * copied[:, np.newaxis], mirrored, now)
        step = ~self.baking
        draws = step & table.draws[self.position]
        adds = draws & ~self.redrawn
        after = replace(
            self,
            held_s=self.held_s + for_s,
            stage_s=self.stage_s + np.where(step, for_s, 0.0),
            silent_s=np.where(seen > 0, 0.0, self.silent_s + for_s * (step & (table.shared[self.position] | table.copied[self.position]))),
            ceiling_s=self.ceiling_s + for_s,
            samples=self.samples + seen,
            stable_samples=self.stable_samples + np.where(step, drawn.stable.requests, 0),
            load=load,
            load_at=now,
            used=used,
            drawn_stable=np.where(adds, self.drawn_stable + drawn.stable.requests, self.drawn_stable * ~draws),
            drawn_candidate=np.where(adds, self.drawn_candidate + users.requests, self.drawn_candidate * ~draws),
            redrawn=self.redrawn & ~draws,
            watches=watches,
            shadows=shadows,
        )
        return changed(after, measured)

    def _measured(self, stable: Counted, now: Floats) -> dict[str, Ints]:
        """`policies.yardstick.measure`."""
        skipped = (self.known_requests >= yardstick.ENOUGH) & (now.astype(np.int64) % yardstick.SPARSE != 0)
        adds = ~self.alone & (stable.requests > 0) & ~skipped
        requests, errors = self.known_requests + stable.requests * adds, self.known_errors + stable.errors * adds
        latency = self.known_latency
        if latency.shape[1] and stable.latency is not None:
            latency = latency + stable.latency * adds[:, np.newaxis]
        full = adds & (requests > yardstick.MOST)
        if full.any():
            requests, errors = np.where(full, requests // 2, requests), np.where(full, errors // 2, errors)
            latency = np.where(full[:, np.newaxis], latency // 2, latency)
        return {"known_requests": requests, "known_errors": errors, "known_latency": latency}

    def _given(self, requests: Ints) -> tuple[Ints, Counted | None]:
        """`policies.yardstick.give` where stable has no traffic."""
        asked = np.where(self.alone & (self.known_requests >= yardstick.LEAST), np.minimum(requests, yardstick.PER_BLOCK), 0)
        if not asked.any():
            return self.used, Counted(requests=asked, errors=asked, latency=self.known_latency * 0) if self.alone.any() else None
        last, known = self.used + asked, np.maximum(self.known_requests, 1)
        errors = last * self.known_errors // known - self.used * self.known_errors // known
        latency = self.known_latency * 0
        rows = (
            np.flatnonzero((asked > 0) & (self.known_latency.sum(axis=1) > 0))
            if self.known_latency.shape[1]
            else np.array([], dtype=np.intp)
        )
        if len(rows):
            edges = self.known_latency[rows].cumsum(axis=1)
            index = self.used[rows, np.newaxis] + np.arange(yardstick.PER_BLOCK)
            place = (index * yardstick.GOLDEN) % 1.0 * edges[:, -1:]
            found = (edges[:, np.newaxis, :] <= place[:, :, np.newaxis]).sum(axis=2)
            width = self.known_latency.shape[1]
            wanted = np.arange(yardstick.PER_BLOCK) < asked[rows, np.newaxis]
            flat = (np.arange(len(rows))[:, np.newaxis] * width + np.minimum(found, width - 1))[wanted]
            latency[rows] = np.bincount(flat, minlength=len(rows) * width).reshape(len(rows), width)
        return last, Counted(requests=asked, errors=errors, latency=latency)

    def eventful(self, policy: RolloutPolicy, now: Floats, table: Table) -> Bools:
        """The runs for which the engine could do something now: none is left out, some may be there for nothing."""
        at, runs = self.position, len(now)
        shared, copied = table.shared[at] | self.baking, table.copied[at] & ~self.baking
        asks_users = shared | ~copied
        fail, open_, goals_open = (np.zeros(runs, dtype=np.bool_) for _ in range(3))
        weighed = np.zeros(runs)
        asked = [(watch, asks_users) for watch in self.watches] + ([(self.shadows, copied)] if self.shadows is not None else [])
        for watch, where in asked:
            said = read(watch, policy, now)
            fail |= said.fail & where
            weighed += np.where(where, said.weighed, 0.0)
            open_ |= said.open & where
            goals_open |= said.goals_open
        fail |= weighed >= needed_together(policy)
        baked = self.baking & (self.held_s >= self.bake_s - 1e-6)
        least = np.maximum(table.samples[at], 1 if policy.gates else 0)
        gated = table.waits[at] & (table.last[at] | shared | copied)
        ready = (self.held_s >= table.for_s[at] - 1e-6) & (~gated | (~open_ & (self.samples >= least)))
        ready &= (~table.approval[at] | self.approved) & (~table.probe[at] | self.probed) & (~table.last[at] | ~goals_open)
        ready &= ~table.baseline[at] | (self.known_requests >= yardstick.LEAST)
        ready &= ~table.shared[at] | self.alone | (self.stable_samples >= table.samples[at])
        limit = np.where(table.approval[at] & ~self.approved, table.within_s[at], policy.when.stuck_after_s)
        when = policy.when
        # A hold moves no traffic and ends by itself: the engine need not be asked for one.
        acts = np.where(table.approval[at] & ~self.approved, table.unanswered[at], when.stuck is not Then.HOLD)
        late = acts & (self.stage_s >= limit - 1e-6)
        silent = (self.silent_s >= when.no_data_after_s - 1e-6) & (when.no_data is not Then.HOLD)
        overloaded = self.room < self.load
        step = ~self.baking
        fail &= self.baking | (when.fail is not Then.HOLD)
        return self.taken & (fail | baked | (step & (ready | late | silent | overloaded)))

    # Into the engine's values and back.

    def state(self, row: int, like: Rollout, now: float) -> Rollout:
        """One run as the engine has it. `like`: what the engine had last."""
        arm = like.arms[0]
        states = {name: each for watch in self.watches for name, each in watch.states(row, arm.gates).items()}
        copies = self.shadows.states(row, arm.shadow_gates) if self.shadows is not None else {}
        arm = replace(
            arm,
            gates=tuple(states[each.name] for each in arm.gates),
            shadow_gates=tuple(copies.get(each.name, each) for each in arm.shadow_gates),
            samples=int(self.samples[row]),
            silent_s=float(self.silent_s[row]),
            ceiling_s=float(self.ceiling_s[row]),
        )
        first = next((watch.bins[0] for watch in self.watches), 0)
        latency = histogram(self.known_latency[row], first).latency
        known = Counts(requests=int(self.known_requests[row]), errors=int(self.known_errors[row]), latency=latency)
        return replace(
            like,
            arms=(arm,),
            clock=now,
            held_s=float(self.held_s[row]),
            stage_s=float(self.stage_s[row]),
            stable_samples=int(self.stable_samples[row]),
            load=float(self.load[row]),
            load_at=float(self.load_at[row]),
            yardstick=Yardstick(seen=known, used=int(self.used[row])),
            drawn=self._drawn(row, like),
        )

    def _drawn(self, row: int, like: Rollout) -> Drawn:
        share_bp = like.arms[0].in_effect_bp
        shares = (FULL_BP - share_bp, share_bp)
        if self.redrawn[row] or like.mode is not Mode.STEP or not self.shares_drawn(like):
            return like.drawn
        return Drawn(shares=shares, requests=(int(self.drawn_stable[row]), int(self.drawn_candidate[row])))

    @staticmethod
    def shares_drawn(state: Rollout) -> bool:
        """Whether the stage counts who gets the requests."""
        at = wish.stage(state)
        return at is not None and at.share_bp > 0 and not state.policy.assignment.sticky

    def put(self, rows: Sequence[int], given: Sequence[Rollout], table: Table) -> "Flock":
        """The same with what the engine has of some runs; each is taken along if it stands."""
        after = changed(self, {field.name: getattr(self, field.name).copy() for field in fields(self) if _plain(field.name)})
        standing = [(row, state) for row, state in zip(rows, given, strict=True) if stands(state)]
        after.taken[list(rows)] = False
        for row, state in standing:
            _write(after, row, state, behind=len(table.for_s) - 1)
        known = [row for row, _ in standing]
        after.watches = tuple(watch.put(known, [state.arms[0].gates for _, state in standing]) for watch in self.watches)
        if self.shadows is not None:
            after.shadows = self.shadows.put(known, [state.arms[0].shadow_gates for _, state in standing])
        return after

    def only(self, rows: Rows) -> "Flock":
        """Some runs alone."""
        kept = {field.name: getattr(self, field.name)[rows] for field in fields(self) if _plain(field.name)}
        shadows = self.shadows.only(rows) if self.shadows is not None else None
        return changed(self, kept | {"watches": tuple(watch.only(rows) for watch in self.watches), "shadows": shadows})


def _write(flock: Flock, row: int, state: Rollout, *, behind: int) -> None:
    """Puts one run into its row. `behind`: the row of the table for baking."""
    arm, known, baking = state.arms[0], state.yardstick.seen, state.mode is Mode.BAKING
    flock.taken[row], flock.baking[row] = True, baking
    flock.position[row] = behind if baking else state.position
    flock.alone[row] = baking or arm.in_effect_bp >= FULL_BP
    flock.approved[row], flock.probed[row], flock.bake_s[row] = state.approved, arm.probing.done, state.bake_s
    flock.held_s[row], flock.stage_s[row], flock.silent_s[row] = state.held_s, state.stage_s, arm.silent_s
    flock.ceiling_s[row], flock.samples[row], flock.stable_samples[row] = arm.ceiling_s, arm.samples, state.stable_samples
    flock.load[row], flock.load_at[row] = state.load, state.load_at
    flock.room[row] = arm.pods.ready * arm.variant.max_concurrency
    flock.known_requests[row], flock.known_errors[row], flock.used[row] = known.requests, known.errors, state.yardstick.used
    same = state.drawn.shares == (FULL_BP - arm.in_effect_bp, arm.in_effect_bp)
    flock.redrawn[row] = not same
    flock.drawn_stable[row], flock.drawn_candidate[row] = state.drawn.requests if same else (0, 0)
    if flock.known_latency.shape[1]:
        first = next(watch.bins[0] for watch in flock.watches)
        flock.known_latency[row] = dense(known.latency, (first, first + flock.known_latency.shape[1]))


def _plain(name: str) -> bool:
    return name not in {"watches", "shadows"}


def _either(where: Bools, one: Counted, other: Counted) -> Counted:
    """`one` of the runs `where`, `other` of the rest."""
    latency = other.latency
    if latency is not None and one.latency is not None and one.latency.shape == latency.shape:
        latency = np.where(where[:, np.newaxis], one.latency, latency)
    return Counted(
        requests=np.where(where, one.requests, other.requests), errors=np.where(where, one.errors, other.errors), latency=latency
    )
