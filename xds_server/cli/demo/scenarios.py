"""What the demo can play: who is stable, who is the candidate, what goes wrong with it; and the policy files of it.

The gates are wide because the load is small: eight requests a second, a fifth of them for the candidate, can honestly show within half a
minute that a version fails less than 10 % more and is less than 75 % slower, and no finer thing. `errors: false_revert` stays at 1 %.
"""

from dataclasses import dataclass
from enum import StrEnum

ROLLOUT = "chat"
PROXIES = "demo"
HOST = "chat.demo"
SHADOW_PERCENT = 50
SHARES_PERCENT = (20, 50)
LEASE_S = 3


class Fault(StrEnum):
    ERRORS = "errors"
    SLOW = "slow"
    CRASH = "crash"


FAULT_WORDS = {
    Fault.ERRORS: "from now on {candidate} answers every request with a 500 (its health check stays green)",
    Fault.SLOW: "from now on {candidate} takes three times as long for every answer",
    Fault.CRASH: "kill -9 for {candidate} in the middle of a stream",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One rollout: `candidate` against `stable`; a fault strikes the candidate in its first canary step."""

    stable: str
    candidate: str
    fault: Fault | None = None

    @property
    def winner(self) -> str:
        return self.candidate if self.fault is None else self.stable

    @property
    def loser(self) -> str:
        return self.stable if self.fault is None else self.candidate

    @property
    def ends(self) -> str:
        """The phase it has to end in."""
        return "promoted" if self.fault is None else "reverted"


DEFAULT = (Act(stable="v1", candidate="v2"), Act(stable="v2", candidate="v3", fault=Fault.ERRORS))
"""A good version, then one that starts to fail."""

SCENARIOS: dict[str, tuple[Act, ...]] = {
    "good": (Act(stable="v1", candidate="v2"),),
    "errors": (Act(stable="v1", candidate="v2", fault=Fault.ERRORS),),
    "slow": (Act(stable="v1", candidate="v2", fault=Fault.SLOW),),
    "crash": (Act(stable="v1", candidate="v2", fault=Fault.CRASH),),
}

LATER = {"silent": "answers that are wrong although fast and free of errors need gates on the answers themselves; they come later"}


def versions(acts: tuple[Act, ...]) -> tuple[str, ...]:
    """Every version that plays, in order of appearance."""
    return tuple(dict.fromkeys(name for act in acts for name in (act.stable, act.candidate)))


def proxies_file(listener_port: int) -> str:
    return f"""\
# Which Envoys there are and where they listen.
apiVersion: crossfade/v1
kind: Proxies
metadata: {{name: {PROXIES}}}
spec:
  select: {{cluster: {PROXIES}}}
  listeners:
    - {{name: public, address: 127.0.0.1, port: {listener_port}}}
"""


def rollout_file(ports: dict[str, int], *, stable: str, candidate: str | None) -> str:
    """The operator's file; a candidate in it that differs from stable starts a rollout."""
    variants = "".join(
        _variant(role, name, ports[name]) for role, name in (("stable", stable), ("candidate", candidate)) if name is not None
    )
    shares = ", ".join(f"{share}%" for share in SHARES_PERCENT)
    return f"""\
# How a new version of the chat model comes into service.
apiVersion: crossfade/v1
kind: Rollout
metadata: {{name: {ROLLOUT}}}
spec:
  traffic:
    proxies: {PROXIES}
    listener: public
    match: [{{host: {HOST}, path_prefix: /v1/}}]
    fallback: gateway                      # when the candidate breaks before its answer begins, stable answers
  variants:
{variants}\
  assignment:
    sticky: {{header: x-user-id}}            # a user keeps the version
  steps:
    - shadow:  {{share: {SHADOW_PERCENT}%, hold: {{for: 5s, samples: 30}}}}
    - canary:  {{shares: [{shares}], hold: {{for: 5s, samples: 30}}}}
    - promote: {{keep_stable_for: 3s}}
  gates:
    - {{name: errors,  metric: envoy/error_rate, role: guardrail, margin: {{absolute: 10%}}}}
    - {{name: latency, metric: envoy/latency,    role: guardrail, statistic: distribution, margin: {{relative: 75%}}}}
  errors: {{false_revert: 1%}}
  when:
    fail: revert
    no_data: {{after: 30s, then: hold}}
    stuck: {{after: 10m, then: revert}}
  lease: {LEASE_S}s                             # without Crossfade, all traffic is stable's after this time
"""


def _variant(role: str, name: str, port: int) -> str:
    return f"""\
    {role}:
      version: {name}
      endpoints: {{static: ["127.0.0.1:{port}"]}}
      runtime: llama-cpp
"""
