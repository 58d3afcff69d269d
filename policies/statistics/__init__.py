"""Anytime-valid tests: evidence that may be looked at after every request without spending its error budget by looking.

`blocks` has the evidence of one block, `mixture` puts blocks together. Built of them, each with the one public form `start(config)`,
`update(baseline, candidate)`, `evidence`, `evidence_pass`, `verdict(alpha, beta)`, `memory()`, `restore(config, memory)`:
  `error_gate`      error rates against stable's            `latency_gate`    latencies by histogram
  `ceiling_gate`    a rate against a promise                `mean_gate`       costs, tokens (with `means`)
  `score_gate`      bounded scores, also of pairs           `vote_gate`       preferences, discordant pairs
  `drift_gate`      bins of inputs or outputs               `agreement_gate`  candidate and stable against stable and stable
  `ratio_gate`      whether the arms get their shares: if not, nothing else counts
Around them: `dispersion` (noise that is not the version's), `winner` (which of K arms), `margins` (budgets, levels, requests until a
verdict), `intervals` and `bands` (for display only). All of it is vectorised over simulated runs; `policies.gates` uses it for one rollout
at a time.
"""

from policies.statistics.agreement_gate import AgreementConfig, AgreementGate
from policies.statistics.ceiling_gate import CeilingConfig, CeilingGate
from policies.statistics.dispersion import Dispersion
from policies.statistics.drift_gate import DriftConfig, DriftGate
from policies.statistics.error_gate import ErrorConfig, ErrorGate
from policies.statistics.latency_gate import LatencyConfig, LatencyGate
from policies.statistics.mean_gate import MeanConfig, MeanGate
from policies.statistics.means import Moments, moments
from policies.statistics.ratio_gate import RatioConfig, RatioGate, invalid
from policies.statistics.score_gate import ScoreConfig, ScoreGate
from policies.statistics.verdict import Verdict
from policies.statistics.vote_gate import VoteConfig, VoteGate
from policies.statistics.winner import Objective, Utility, WinnerConfig, WinnerGate

__all__ = [
    "AgreementConfig",
    "AgreementGate",
    "CeilingConfig",
    "CeilingGate",
    "Dispersion",
    "DriftConfig",
    "DriftGate",
    "ErrorConfig",
    "ErrorGate",
    "LatencyConfig",
    "LatencyGate",
    "MeanConfig",
    "MeanGate",
    "Moments",
    "Objective",
    "RatioConfig",
    "RatioGate",
    "ScoreConfig",
    "ScoreGate",
    "Utility",
    "Verdict",
    "VoteConfig",
    "VoteGate",
    "WinnerConfig",
    "WinnerGate",
    "invalid",
    "moments",
]
