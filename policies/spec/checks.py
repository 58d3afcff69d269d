"""What cannot be said of one field of a policy: faults between fields of a document, faults between documents, and doubts (warnings). Pure.

Neighbours: `documents` (the models), `loader` (turns these into errors with their lines).
"""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from policies.spec.documents import Proxies, Rollout
from policies.spec.policy import FULL_BP, CanaryStep, Hold, PromoteStep, ProxiesPolicy, Role, RolloutPolicy, ShadowStep
from policies.spec.reader import Path
from policies.spec.units import did_you_mean
from policies.steps import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    path: Path
    message: str
    expected: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """What `one` document has that belongs to an `other`, by where it stands in each and in words."""

    here: Path
    there: Path
    message: str
    expected: str
    hint: str


def faults(document: Rollout | Proxies) -> Iterator[Fault]:
    """What is wrong between the fields of a document that are each right."""
    if isinstance(document, Proxies):
        yield from _listeners(document)
        return
    yield from _steps(document)
    names: set[str] = set()
    for index, gate in enumerate(document.spec.gates):
        if gate.name in names:
            path: Path = ("spec", "gates", index, "name")
            yield Fault(path=path, message=f"two gates are called {gate.name!r}", expected="each name once", hint="rename one")
        names.add(gate.name)
    owned: set[tuple[str, str]] = set()
    for index, match in enumerate(document.spec.traffic.match):
        key = (match.host.lower(), match.path_prefix)
        if key in owned:
            path = ("spec", "traffic", "match", index)
            message = f"host {key[0]} with path {key[1]} stands twice"
            yield Fault(path=path, message=message, expected="each host and path once", hint="remove one")
        owned.add(key)


def _steps(document: Rollout) -> Iterator[Fault]:
    steps = document.spec.steps
    if document.spec.variants.candidate is not None and not steps:
        message = "there is a candidate and no step: it would be promoted at once"
        yield Fault(
            path=("spec", "steps"), message=message, expected="at least one step", hint="- canary: {shares: [5%, 50%], hold: {for: 5m}}"
        )
    reached = 0
    for index, step in enumerate(steps):
        path: Path = ("spec", "steps", index)
        if step.promote is not None and index < len(steps) - 1:
            yield Fault(path=path, message="promote ends a rollout", expected="promote as the last step only", hint="move it to the end")
        if step.shadow is not None and reached:
            message = f"a shadow takes no share, so it would take the candidate back from {percent(reached)} to 0"
            yield Fault(path=path, message=message, expected="shadow before canary", hint="move it before the canary")
        for place, share in enumerate(step.canary.shares if step.canary else ()):
            if share <= reached:
                message = f"{percent(share)} after {percent(reached)} does not grow"
                path = ("spec", "steps", index, "canary", "shares", place)
                yield Fault(path=path, message=message, expected="strictly growing shares, such as [1%, 5%, 25%]", hint="order the shares")
            reached = max(reached, share)


def _listeners(document: Proxies) -> Iterator[Fault]:
    listeners = document.spec.listeners
    for index, listener in enumerate(listeners):
        for other in listeners[:index]:
            path: Path = ("spec", "listeners", index)
            if other.name == listener.name:
                message = f"two listeners are called {listener.name!r}"
                yield Fault(path=(*path, "name"), message=message, expected="each name once", hint="rename one")
            if other.port == listener.port and _overlap(other.address, listener.address):
                message = f"{listener.address} port {listener.port} is taken by listener {other.name!r}"
                yield Fault(path=(*path, "port"), message=message, expected="each address and port once", hint="take another port")


def _overlap(one: str, other: str) -> bool:
    """Whether a port cannot be listened on at both: the same address, or every address of a family and one of it."""
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return first == second or (first.version == second.version and (first.is_unspecified or second.is_unspecified))


def dangling(value: RolloutPolicy, groups: Mapping[str, ProxiesPolicy]) -> Fault | None:
    """The group or listener that a rollout names and that does not exist."""
    where = value.traffic
    group = groups.get(where.proxies)
    if group is None:
        known = sorted(groups)
        hint = did_you_mean(where.proxies, known) or ("" if known else "add a document of kind: Proxies")
        path: Path = ("spec", "traffic", "proxies")
        return Fault(path=path, message=f"there are no Proxies named {where.proxies!r}", expected=one_of(known), hint=hint)
    known = [listener.name for listener in group.listeners]
    if where.listener not in known:
        message = f"Proxies {group.name!r} have no listener {where.listener!r}"
        path = ("spec", "traffic", "listener")
        return Fault(path=path, message=message, expected=one_of(known), hint=did_you_mean(where.listener, known))
    return None


def clash(one: RolloutPolicy | ProxiesPolicy, other: RolloutPolicy | ProxiesPolicy) -> Clash | None:
    """Why two documents cannot both be in force, told to `one`."""
    if type(one) is not type(other):
        return None
    if one.name == other.name:
        name: Path = ("metadata", "name")
        message = f"the name {one.name!r} is taken"
        return Clash(here=name, there=name, message=message, expected="each name once per kind", hint="rename or remove one of them")
    if isinstance(one, ProxiesPolicy) and isinstance(other, ProxiesPolicy) and one.select == other.select:
        path: Path = ("spec", "select")
        message = f"Proxies {other.name!r} select the same Envoys"
        return Clash(here=path, there=path, message=message, expected="each Envoy in one group", hint="change one `select`")
    if isinstance(one, RolloutPolicy) and isinstance(other, RolloutPolicy):
        return _shared_traffic(one, other)
    return None


def _shared_traffic(one: RolloutPolicy, other: RolloutPolicy) -> Clash | None:
    if (one.traffic.proxies, one.traffic.listener) != (other.traffic.proxies, other.traffic.listener):
        return None
    for index, match in enumerate(one.traffic.match):
        if match in other.traffic.match:
            return Clash(
                here=("spec", "traffic", "match", index),
                there=("spec", "traffic", "match", other.traffic.match.index(match)),
                message=f"host {match.host} with path {match.path_prefix} belongs to rollout {other.name!r}",
                expected="each host and path of a listener in one rollout",
                hint="give one of them another host or path",
            )
    return None


def doubts(value: RolloutPolicy) -> Iterator[Fault]:
    """What is allowed and probably not meant."""
    if value.candidate is None:
        return
    if value.candidate.endpoints == value.stable.endpoints:
        message = "stable and candidate have the same endpoints: whatever differs between them is not seen here"
        yield Fault(path=("spec", "variants", "candidate", "endpoints"), message=message, hint="give each version pods of its own")
    canaries = [step for step in value.steps if isinstance(step, CanaryStep)]
    if canaries and not any(gate.role is Role.GUARDRAIL for gate in value.gates):
        what = "no guardrail" if value.gates else "no gate"
        message = f"{what} is set: nothing takes a bad candidate back by itself"
        hint = "gates: [{name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%}}]"
        yield Fault(path=("spec", "gates"), message=message, hint=hint)
    first = value.steps[0] if value.steps else None
    if isinstance(first, CanaryStep) and first.shares_bp[0] == FULL_BP:
        message = "the first step gives the candidate everything at once"
        yield Fault(path=("spec", "steps", 0), message=message, hint="start with a shadow or a small share")
    if value.steps and not isinstance(value.steps[-1], PromoteStep):
        message = "the last step is not promote: the rollout stays at its last share until someone promotes by hand"
        yield Fault(path=("spec", "steps"), message=message, hint="end with - promote: {keep_stable_for: 1h}")
    yield from _doubtful_holds(value)


def _doubtful_holds(value: RolloutPolicy) -> Iterator[Fault]:
    for index, step in enumerate(value.steps):
        if not isinstance(step, ShadowStep | CanaryStep):
            continue
        path: Path = ("spec", "steps", index, step.kind)
        if step.hold == Hold():
            message = "no hold: the step ends as soon as its gates allow"
            yield Fault(path=path, message=message, hint="hold: {for: 5m, samples: 500}")
        if step.hold.for_s >= value.when.stuck_after_s:
            message = (
                f"the hold of {step.hold.for_s:.10g} s is not over when the step counts as stuck, after {value.when.stuck_after_s:.10g} s"
            )
            yield Fault(path=(*path, "hold"), message=message, hint="raise when.stuck.after")


def one_of(words: Sequence[str]) -> str:
    return f"one of {', '.join(words)}" if words else ""
