"""What cannot be said of one field of a policy: faults between fields of a document, and between documents. Pure.

Neighbours: `step_checks` (the same of steps), `doubts` (what is allowed and probably not meant), `loader` (gives faults their lines).
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from policies.spec import step_checks
from policies.spec.documents import GateBundle, Proxies, Rollout
from policies.spec.faults import Fault, one_of
from policies.spec.gates import UseBundle
from policies.spec.policy import FULL_BP, STABLE, Gate, Match, ProxiesPolicy, Role, RolloutPolicy, SwitchStep
from policies.spec.reader import Path
from policies.spec.units import did_you_mean, shown
from policies.steps import percent, reserves


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """What `one` document has that belongs to an `other`, by where it stands in each and in words."""

    here: Path
    there: Path
    message: str
    expected: str
    hint: str


def faults(document: Rollout | Proxies | GateBundle) -> Iterator[Fault]:
    """What is wrong between the fields of a document that are each right, as far as it can be said without other documents."""
    match document:
        case Proxies():
            yield from _listeners(document)
        case GateBundle():
            yield from _names((gate.name, ("spec", "gates", index, "name")) for index, gate in enumerate(document.spec.gates))
        case Rollout():
            yield from _owned(document)
            yield from _arms(document)
            yield from step_checks.faults(document)


def faults_of_gates(document: Rollout, bundles: Mapping[str, tuple[Gate, ...]]) -> Iterator[Fault]:
    """What is wrong with the gates once the bundles are known that are used."""
    names: list[tuple[str, Path]] = []
    roles: dict[str, Role] = {}
    for index, entry in enumerate(document.spec.gates):
        bundle = isinstance(entry, UseBundle)
        gates = bundles[entry.use] if isinstance(entry, UseBundle) else (entry.value(),)
        names += [(gate.name, ("spec", "gates", index, "use" if bundle else "name")) for gate in gates]
        roles |= {gate.name: gate.role for gate in gates}
    yield from _names(names)
    goals = [name for name, role in roles.items() if role is Role.GOAL]
    decided: set[str] = set()
    for index, step in enumerate(document.spec.steps):
        if step.ab is None:
            continue
        goal, path = step.ab.goal, ("spec", "steps", index, "ab", "goal")
        if goal in decided:
            message = f"goal {goal!r} has decided an earlier ab: what was seen then would decide this one too"
            yield Fault(path=path, message=message, expected="a goal of its own", hint="add another gate with role: goal")
        decided.add(goal)
        if goal in goals:
            continue
        message = f"gate {goal!r} is a {roles[goal].value}, no goal" if goal in roles else f"there is no gate {goal!r}"
        hint = did_you_mean(goal, goals) or f"- {{name: {goal}, metric: envoy/error_rate, role: goal, better_by: {{absolute: 0%}}}}"
        yield Fault(path=path, message=message, expected=one_of(goals) or "a gate with role: goal", hint=hint)


def unknown_zones(document: Rollout, exists: Callable[[str], bool]) -> Iterator[Fault]:
    """Time zones of freeze windows that there are not."""
    for index, window in enumerate(document.spec.freeze):
        if not exists(window.timezone):
            path: Path = ("spec", "freeze", index, "timezone")
            message = f"there is no time zone {shown(window.timezone)}"
            yield Fault(path=path, message=message, expected="a name of the IANA database", hint="such as Europe/Berlin, or UTC")


def _names(gates: Iterable[tuple[str, Path]]) -> Iterator[Fault]:
    names: set[str] = set()
    for name, path in gates:
        if name in names:
            yield Fault(path=path, message=f"two gates are called {name!r}", expected="each name once", hint="rename one")
        names.add(name)


def _owned(document: Rollout) -> Iterator[Fault]:
    owned: set[Match] = set()
    for index, each in enumerate(document.spec.traffic.match):
        match = each.value()
        if match in owned:
            path: Path = ("spec", "traffic", "match", index)
            yield Fault(path=path, message=f"{_told(match)} stands twice", expected="each host and path once", hint="remove one")
        owned.add(match)


def _told(match: Match) -> str:
    also = f" and headers {', '.join(header.name for header in match.headers)}" if match.headers else ""
    return f"host {match.host} with path {match.path_prefix}{also}"


def _arms(document: Rollout) -> Iterator[Fault]:
    """Each arm is a version of its own, and segments name what is there."""
    arms = document.spec.variants.arms
    known: dict[str, str] = {}
    for name, arm in arms.items() if len(arms) > 1 else ():
        other = known.setdefault(arm.value(name).identity, name)
        if other != name:
            message = f"{name} is the same as {other}: version, endpoints and config are equal"
            yield Fault(path=("spec", "variants", name), message=message, expected="each version once", hint=f"remove {name}")
    for index, segment in enumerate(document.spec.assignment.segments if arms else ()):
        if segment.variant not in (STABLE, *arms):
            path: Path = ("spec", "assignment", "segments", index, "variant")
            yield step_checks.unknown_arm(segment.variant, [STABLE, *arms], path)


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


def same_name(name: str) -> Clash:
    """Of two documents of a kind."""
    path: Path = ("metadata", "name")
    message = f"the name {name!r} is taken"
    return Clash(here=path, there=path, message=message, expected="each name once per kind", hint="rename or remove one of them")


def clash(one: RolloutPolicy | ProxiesPolicy, other: RolloutPolicy | ProxiesPolicy) -> Clash | None:
    """Why two documents cannot both be in force, told to `one`."""
    if type(one) is not type(other):
        return None
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
    theirs = {match: index for index, match in enumerate(other.traffic.match)}
    for index, match in enumerate(one.traffic.match):
        if match in theirs:
            return Clash(
                here=("spec", "traffic", "match", index),
                there=("spec", "traffic", "match", theirs[match]),
                message=f"{_told(match)} belongs to rollout {other.name!r}",
                expected="each host and path of a listener in one rollout",
                hint="give one of them another host or path",
            )
    return None


def overfull(rollouts: Mapping[int, RolloutPolicy]) -> Iterator[tuple[int, Fault]]:
    """Rollouts for which their layer has no room, by the key they were given with: by name, the first get theirs."""
    taken: dict[str, int] = {}
    for index, value in sorted(rollouts.items(), key=lambda item: item[1].name):
        layer, wanted = value.assignment.layer, sum(reserves(value).values()) if value.assignment.layer else 0
        before = taken.get(layer, 0)
        if before + wanted <= FULL_BP:
            taken[layer] = before + wanted
            continue
        yield index, _no_room(value, wanted, FULL_BP - before)


def _no_room(value: RolloutPolicy, wanted_bp: int, left_bp: int) -> Fault:
    path: Path = ("spec", "assignment", "layer")
    layer = value.assignment.layer
    expected = "rollouts of one layer whose largest shares are 100% together at most"
    switch = next((step for step in value.steps if isinstance(step, SwitchStep)), None)
    if switch is None:
        message = f"this rollout needs {percent(wanted_bp)} of the users of layer {layer!r}, and {percent(left_bp)} are left"
        return Fault(path=path, message=message, expected=expected, hint="lower its shares, or take another layer")
    others = wanted_bp - FULL_BP
    left = f"the other arms need {percent(others)} beside it" if others else f"{percent(left_bp)} are left"
    message = f"the switch to {switch.arm} needs all users of layer {layer!r}, and {left}"
    hint = "remove layer" if others else "give it a layer of its own, or a canary in place of the switch"
    return Fault(path=path, message=message, expected=expected, hint=hint)


def strangers(rollouts: Mapping[int, RolloutPolicy]) -> Iterator[tuple[int, Fault]]:
    """Rollouts that know users by another cookie than their layer does, by the key they were given with: the first by name has said which."""
    names: dict[str, tuple[str, str]] = {}
    for index, value in sorted(rollouts.items(), key=lambda item: item[1].name):
        layer, cookie = value.assignment.layer, value.assignment.cookie
        if not layer or cookie is None:
            continue
        known, by = names.setdefault(layer, (cookie.name, value.name))
        if cookie.name != known:
            path: Path = ("spec", "assignment", "sticky", "cookie")
            message = f"layer {layer!r} knows users by the cookie {known!r} (rollout {by!r}), not by {cookie.name!r}"
            expected = "one cookie for all rollouts of a layer: a user has another place by each"
            yield index, Fault(path=path, message=message, expected=expected, hint=f"sticky: {{cookie: {known}}}")
