"""Plays the stories in `strategies/`: a policy and what happens to it is written there by hand, what Crossfade does is written by it.

A story is read line by line. Its author writes
    # words                                   for the reader; the first line is the title
    | spec of a Rollout as YAML               the policy (traffic and endpoints are filled in); later in the story: an edit of it
    file NAME | text                          a file beside the policy, one line of it
    pods b 1 of 2                             what is known of an arm's pods (all are ready unless the story says otherwise)
    proxies wait | proxies ACK                publications are not ACKed (else they are at once); now they are
    proxies reject "words"                    one of two rejects what was sent
    probe good | probe bad "words"            the probe of every arm ends so
    60 s of 100/s                             traffic that lasts; each arm gets its share in effect of it
    60 s of 100/s, b 5% bad, stable 80 ms     the same; some fail, or take another time than 100 ms
    60 s of nothing                           time passes
    ann: approve "words"                      a verb; `ann: rollback v1`, `ann: promote b`
    window "words" | window over              a freeze window of the policy
    source "words" | source works             the evidence cannot be had
    restart                                   the process was killed and is back
and Crossfade, indented,
    12.5 s advanced: because                  a decision at this time of the story
    = stable 90%, b 10%; copies to b 5%       what the proxies are to do from now on
    . because                                 at the end of a line: what the rollout waits for
"""

import re
from collections import Counter
from pathlib import Path

import yaml

from policies import engine, explain, report, wish
from policies.evidence import Block, Counts, latency_bin
from policies.rollout import (
    Commanded,
    Delivered,
    Delivery,
    EvidenceArrived,
    Mode,
    Notify,
    Pods,
    PodsProbed,
    PolicyChanged,
    PolicyRemoved,
    Probed,
    Probing,
    Restarted,
    SourceReported,
    Ticked,
    Verb,
    WindowChanged,
)
from policies.spec.loader import load
from policies.steps import percent
from tests.specs import PROXIES, rollout, text

FOLDER = Path(__file__).parent / "strategies"
STEP_S = 0.5

SPREAD = (0.7, 1.0, 0.85, 1.6, 1.15, 0.95, 1.3, 1.05)
"""Latencies of an arm's requests by turns, times what the story says."""

TRAFFIC = re.compile(r"(?P<seconds>[\d.]+) s of (?:(?P<rate>[\d.]+)/s|nothing)(?P<rest>(?:, [^,]+)*)")
BAD = re.compile(r"(?P<arm>[\w-]+) (?P<part>[\d.]+)% bad")
SLOW = re.compile(r"(?P<arm>[\w-]+) (?P<ms>[\d.]+) ms")
SAID = re.compile(r'(?P<who>\w+): (?P<verb>\w+)(?: (?P<to>[\w.-]+))?(?: "(?P<words>[^"]*)")?')
QUOTED = re.compile(r'(?P<what>probe bad|proxies reject|window|source) "(?P<words>[^"]*)"')
PODS = re.compile(r"pods (?P<arm>[\w-]+) (?P<ready>\d+) of (?P<total>\d+)")


def play(story):
    """The story as it must be: the author's lines, and after each what Crossfade did."""
    stage, lines = Stage(), []
    written = [line for line in story.splitlines() if not line.startswith("    ")]
    for number, line in enumerate(written):
        lines.append(line)
        following = written[number + 1] if number + 1 < len(written) else ""
        try:
            said = stage.step(line, more=following.startswith("| ") and line.startswith("| "))
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{line!r}: {error}") from error
        lines += [f"    {each}" for each in said]
    return "\n".join(lines) + "\n"


class Stage:
    """One rollout with two proxies and its own clock, which starts at 0."""

    def __init__(self):
        self.state, self.now, self.acking = None, 0.0, True
        self.pods, self.files, self.draft, self.said = {}, {}, [], []
        self.owed, self.turns = {}, {}

    def step(self, line, *, more):
        self.said = []
        if line.startswith("| "):
            self.draft.append(line[2:])
            if not more:
                self.declare()
        elif line and not line.startswith("#"):
            self.act(line)
        else:
            return []
        if self.state is not None and not more and not line.startswith("file "):
            self.said.append(f". {report.report(self.state, now=self.now, held=True)['because']}")
        return self.said

    def declare(self):
        spec, self.draft = yaml.safe_load("\n".join(self.draft)), []
        variants = spec.pop("variants")
        filled = {
            name: {"version": said, "endpoints": {"static": [f"127.0.0.1:{8001 + place}"]}} if isinstance(said, str) else said
            for place, (name, said) in enumerate(variants.items())
        }
        document = rollout("chat", **{"gates": None, **spec, "variants": filled})
        found = load({"f.yaml": text(PROXIES, document), **self.files})
        if found.errors:
            raise ValueError("; ".join(f"{error.path}: {error.message}" for error in found.errors))
        (policy,) = found.rollouts
        if self.state is None:
            self.take(engine.adopt(policy, now=self.now))
            self.settle()
        else:
            self.on(PolicyChanged(policy=policy))

    def act(self, line):
        match line.split():
            case ["file", name, "|", *_]:
                self.files[name] = self.files.get(name, b"") + line.split("| ", 1)[1].encode() + b"\n"
            case ["proxies", "wait" | "ACK" as word]:
                self.acking = word == "ACK"
                self.settle()
            case ["probe", "good"]:
                self.probed(Probing(asked=10, good=10, done=True))
            case ["window", "over"]:
                self.on(WindowChanged(words=""))
            case ["source", "works"]:
                self.on(SourceReported(words=""))
            case ["restart"]:
                self.on(Restarted())
            case ["document", "removed"]:
                self.on(PolicyRemoved())
            case ["pods", *_]:
                found = PODS.fullmatch(line)
                self.pods[found["arm"]] = Pods(ready=int(found["ready"]), total=int(found["total"]))
                self.look_at_pods()
            case [_, "s", "of", *_]:
                self.live(TRAFFIC.fullmatch(line))
            case _ if found := QUOTED.fullmatch(line):
                self.quoted(found["what"], found["words"])
            case _ if found := SAID.fullmatch(line):
                verb = Verb(found["verb"])
                self.on(Commanded(verb=verb, actor=found["who"], reason=found["words"] or "", to=found["to"] or ""))
            case _:
                raise ValueError("is no line of a story")

    def quoted(self, what, words):
        match what:
            case "probe bad":
                self.probed(Probing(asked=10, good=7, done=True, words=words))
            case "proxies reject":
                delivery = Delivery(selected=2, acked=1, rejected=1, words=words)
                self.on(Delivered(publication=self.state.publication, delivery=delivery))
            case "window":
                self.on(WindowChanged(words=words))
            case "source":
                self.on(SourceReported(words=words))

    def probed(self, probing):
        for arm in self.state.running:
            self.on(Probed(identity=arm.variant.identity, position=self.state.position, probing=probing))

    # Life.

    def live(self, found):
        bad, slow = {}, {}
        for said in found["rest"].split(", ")[1:]:
            if one := BAD.fullmatch(said):
                bad[one["arm"]] = float(one["part"]) / 100
            elif one := SLOW.fullmatch(said):
                slow[one["arm"]] = float(one["ms"])
            else:
                raise ValueError(f"{said!r} says nothing of traffic")
        rate = float(found["rate"] or 0)
        for _ in range(round(float(found["seconds"]) / STEP_S)):
            self.now += STEP_S
            if rate:
                self.on(EvidenceArrived(block=self.block(rate, bad, slow)))
            self.on(Ticked())

    def block(self, rate, bad, slow):
        live = self.state.arms if self.state.mode is Mode.STEP else ()
        users = {arm.name: arm.in_effect_bp for arm in live if arm.in_effect_bp}
        shares = {"stable": 10_000 - sum(users.values()), **users}
        seen = {name: self.some(name, rate * share / 10_000, bad, slow) for name, share in shares.items()}
        copies = {arm.name: self.some(f"{arm.name} copy", rate * arm.shadow_in_effect_bp / 10_000, bad, slow) for arm in live}
        named = {"stable": self.state.stable, **{arm.name: arm.variant for arm in live}}
        return Block(
            start=self.now - STEP_S,
            end=self.now,
            users={named[name].identity: each for name, each in seen.items() if each.requests},
            shadows={named[name].identity: each for name, each in copies.items() if each.requests},
        )

    def some(self, name, rate, bad, slow):
        arm = name.removesuffix(" copy")
        requests = self.whole(name, rate * STEP_S)
        errors = self.whole(f"{name} bad", requests * bad.get(arm, 0.0))
        bins = Counter(latency_bin(slow.get(arm, 100.0) * SPREAD[self.turn(name)]) for _ in range(requests))
        return Counts(requests=requests, errors=errors, latency=tuple(sorted(bins.items())))

    def turn(self, name):
        """The next of the latencies that an arm has by turns."""
        self.turns[name] = (self.turns.get(name, -1) + 1) % len(SPREAD)
        return self.turns[name]

    def whole(self, what, amount):
        """Whole requests; what is left over is owed to the next block."""
        owed = self.owed.get(what, 0.0) + amount
        self.owed[what] = owed - int(owed + 1e-9)
        return int(owed + 1e-9)

    # The rest of the world: pods are ready and proxies ACK, unless the story says otherwise.

    def on(self, event):
        self.take(engine.step(self.state, event, now=self.now))
        self.settle()

    def settle(self):
        self.look_at_pods()
        while self.acking and self.owing():
            delivery = Delivery(selected=2, acked=2)
            self.take(engine.step(self.state, Delivered(publication=self.state.publication, delivery=delivery), now=self.now))

    def owing(self):
        return not self.state.delivery.complete and not self.state.delivery.rejected and self.state.mode is not Mode.RETIRED

    def look_at_pods(self):
        for arm in self.state.arms if self.state is not None else ():
            pods = self.pods.get(arm.name, Pods(ready=1, total=1))
            if pods != next((each.pods for each in self.state.arms if each.name == arm.name), pods):
                self.take(engine.step(self.state, PodsProbed(identity=arm.variant.identity, pods=pods), now=self.now))

    def take(self, step):
        before, self.state = self.state, step.state
        records = [effect.record for effect in step.effects if isinstance(effect, Notify)]
        self.said += [f"{self.now:g} s {record.decision.value}: {explain.sentence(record.reason)}" for record in records]
        if step.refused:
            self.said.append(f"{self.now:g} s refused: {explain.sentence(step.because)}")
        wanted = told(wish.traffic(self.state))
        if before is None or wanted != told(wish.traffic(before)):
            self.said.append(f"= {wanted}")


def told(traffic):
    """What the proxies are to do, in one line."""
    if traffic is None:
        return "no traffic of ours"
    left = 10_000 - sum(arm.share_bp for arm in traffic.arms)
    shares = [f"{traffic.stable.version} {percent(left)}"]
    shares += [f"{arm.variant.version} {percent(arm.share_bp)}" for arm in traffic.arms]
    copies = [f"{percent(arm.shadow_bp)} to {arm.variant.version}" for arm in traffic.arms if arm.shadow_bp]
    pinned = [arm.variant.version for arm in traffic.arms if arm.pinned]
    kept = [variant.version for variant in traffic.kept]
    return (
        ", ".join(shares)
        + (f"; copies {', '.join(copies)}" if copies else "")
        + (f"; segments to {', '.join(pinned)}" if pinned else "")
        + (f"; {', '.join(kept)} kept warm" if kept else "")
    )
