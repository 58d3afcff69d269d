"""Anytime-valid tests: evidence that may be looked at after every request without spending its error budget by looking.

`blocks` has the evidence of one block, `mixture` puts blocks together, `error_gate` and `latency_gate` are the two tests built of them,
`intervals` is for display only. All of it is vectorised over simulated runs; `policies.gates` uses it for one rollout at a time.
"""

from policies.statistics.error_gate import ErrorConfig, ErrorGate
from policies.statistics.latency_gate import LatencyConfig, LatencyGate
from policies.statistics.verdict import Verdict

__all__ = ["ErrorConfig", "ErrorGate", "LatencyConfig", "LatencyGate", "Verdict"]
