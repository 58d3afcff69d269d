"""Whether the steps of a Rollout lead forward: every arm they name is there, no arm's share shrinks, and what ends a rollout stands at its end. Pure.

Neighbours: `checks` (faults between other fields), `policies.steps` (what the steps mean once they are good).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from policies.spec.companions import fault_of_schema
from policies.spec.documents import Rollout
from policies.spec.faults import Fault, one_of
from policies.spec.policy import FULL_BP, STABLE
from policies.spec.reader import Path
from policies.spec.steps import Canary, Step
from policies.spec.units import did_you_mean
from policies.steps import percent


def faults(document: Rollout) -> Iterator[Fault]:
    arms, steps = list(document.spec.variants.arms), document.spec.steps
    if arms and not steps:
        message = f"there is {'a candidate' if arms == ['candidate'] else f'an arm {arms[0]!r}'} and no step: it would be promoted at once"
        hint = "- canary: {shares: [5%, 50%], hold: {for: 5m}}"
        yield Fault(path=("spec", "steps"), message=message, expected="at least one step", hint=hint)
    for index, step in enumerate(steps):
        if step.promote is not None and index < len(steps) - 1:
            path: Path = ("spec", "steps", index)
            yield Fault(path=path, message="promote ends a rollout", expected="promote as the last step only", hint="move it to the end")
    if arms:  # without one the steps wait for the next version, whatever it will be called
        walk = _Walk(arms=arms, segments=bool(document.spec.assignment.segments))
        for index, step in enumerate(steps):
            yield from walk.step(step, ("spec", "steps", index))


def unknown_arm(name: str, known: Sequence[str], path: Path) -> Fault:
    if name == STABLE:
        return Fault(path=path, message="stable has what the arms leave", expected=one_of(known), hint="remove it")
    return Fault(path=path, message=f"there is no variant {name[:60]!r}", expected=one_of(known), hint=did_you_mean(name, known))


@dataclass(slots=True)
class _Walk:
    """Goes through the steps in their order.

    Attributes:
        reached: Users' share of each arm so far [hundredths of a per cent].
        users: Whether a step gave users an arm.
        switched, compared: Whether there was a switch; an ab.
    """

    arms: list[str]
    segments: bool
    reached: dict[str, int] = field(default_factory=dict)
    users: bool = False
    switched: bool = False
    compared: bool = False

    def step(self, step: Step, path: Path) -> Iterator[Fault]:
        if self.switched and step.approve is None and step.promote is None:
            message = "after a switch there is nothing more to try"
            yield Fault(path=path, message=message, expected="approve or promote after a switch", hint="move it before the switch")
        if step.probe is not None and isinstance(schema := step.probe.expect.schema_, dict) and (said := fault_of_schema(schema)):
            yield Fault(path=(*path, "probe", "expect", "schema"), message=said, expected="a JSON Schema, draft 2020-12")
        if step.shadow is not None and step.shadow.shares is not None:
            yield from self._unknown(step.shadow.shares, (*path, "shadow", "shares"))
        if step.canary is not None:
            yield from self._canary(step.canary, (*path, "canary"))
        if step.ab is not None:
            self.users = self.compared = True
            yield from self._shares(step.ab.shares, (*path, "ab", "shares"))
        if step.switch is not None:
            self.switched = self.users = True
            yield from self._the_arm(step.switch.to, (*path, "switch"), "to", decided=False)
        if step.promote is not None:
            yield from self._the_arm(step.promote.variant, (*path, "promote"), "variant", decided=self.compared)

    def _canary(self, canary: Canary, path: Path) -> Iterator[Fault]:
        for below, said, _ in canary.stages():
            at = (*path, *below)
            if isinstance(said, int) and len(self.arms) != 1:
                shares = ", ".join(f"{arm}: {percent(max(1, said // len(self.arms)))}" for arm in self.arms)
                message = f"{percent(said)} of which arm? There are {len(self.arms)}"
                yield Fault(path=at, message=message, expected=f"shares by arm: {', '.join(self.arms)}", hint=f"{{{shares}}}")
                return
            shares_of = {self.arms[0]: said} if isinstance(said, int) else said
            before, first = dict(self.reached), not self.users
            self.users = True
            if not any(shares_of.values()) and not any(before.values()) and first:
                if not self.segments:
                    hint = "add assignment.segments, or begin with 1%"
                    yield Fault(path=at, message="0% gives nobody an arm", expected="segments that are pinned to an arm", hint=hint)
                continue
            yield from self._shares(shares_of, at)
            known = {arm: share for arm, share in shares_of.items() if arm in self.arms}
            if known and all(share == before.get(arm, 0) for arm, share in known.items()):
                (arm, share), *_ = known.items()
                yield _no_growth(arm if len(self.arms) > 1 else "", share, share, at)

    def _shares(self, shares: Mapping[str, int], path: Path) -> Iterator[Fault]:
        """One stage's: known arms, none with less than before, not more than everything."""
        yield from self._unknown(shares, path)
        for arm, share in shares.items():
            before = self.reached.get(arm, 0)
            if share < before:
                yield _no_growth(arm if len(self.arms) > 1 else "", share, before, path if len(self.arms) == 1 else (*path, arm))
            self.reached[arm] = max(share, before)
        total = sum(self.reached.get(arm, 0) for arm in self.arms)
        if total > FULL_BP:
            message = f"the arms have {percent(total)} together"
            yield Fault(
                path=path, message=message, expected="100% at most; an arm that is not named keeps its share", hint="lower one share"
            )

    def _unknown(self, shares: Mapping[str, int], path: Path) -> Iterator[Fault]:
        for arm in shares:
            if arm not in self.arms:
                yield unknown_arm(arm, self.arms, (*path, arm))

    def _the_arm(self, name: str | None, path: Path, key: str, *, decided: bool) -> Iterator[Fault]:
        """Of a step that is about one arm: it is named, or there is no doubt which it is."""
        if name is not None and name not in self.arms:
            yield unknown_arm(name, self.arms, (*path, key))
        elif name is None and len(self.arms) > 1 and not decided:
            message = f"there are {len(self.arms)} arms and nothing says which is meant"
            also = ", or an ab step before" if key == "variant" else ""
            yield Fault(
                path=path, message=message, expected=f"{key} with one of {', '.join(self.arms)}{also}", hint=f"{key}: {self.arms[0]}"
            )


def _no_growth(arm: str, share: int, before: int, path: Path) -> Fault:
    what = f"{arm} with {percent(share)} after {percent(before)}" if arm else f"{percent(share)} after {percent(before)}"
    expected = "shares that grow, for each arm" if arm else "strictly growing shares, such as [1%, 5%, 25%]"
    return Fault(path=path, message=f"{what} does not grow", expected=expected, hint="order the shares")
