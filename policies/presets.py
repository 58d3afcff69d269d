"""Serving runtimes: where each says that it is ready, and what its answer does not say. Plain data.

Sources, read in or run from these releases: vLLM 0.33, SGLang 0.5.23, Triton 2.73 (26.09), TensorFlow Serving, TorchServe 0.12, TGI, the KServe
Python server (Open Inference Protocol), MLServer 1.7, Ray Serve 2.60, BentoML 1.4, llama.cpp server and Ollama of October 2026.
"""

from dataclasses import dataclass

from policies.spec.policy import HealthCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A serving runtime.

    Attributes:
        health: None = its port accepting a connection is all that can be asked, or (`needs_path`) the policy must say the path.
        needs_path: What `health.path` must be, where it has the model's name in it; "" otherwise.
        notes: What to know before trusting it.
    """

    health: HealthCheck | None = None
    needs_path: str = ""
    notes: str = ""


RUNTIMES: dict[str, Runtime] = {
    "http": Runtime(notes="any server: no health check unless the policy names one"),
    "vllm": Runtime(
        health=HealthCheck(path="/health"),
        notes="stays 200 while it drains; by default SIGTERM cuts open streams (give it --shutdown-timeout)",
    ),
    "sglang": Runtime(
        health=HealthCheck(path="/ready"),
        notes="200 only when up and not shutting down; releases without /ready: set health.path to /health",
    ),
    "triton": Runtime(
        health=HealthCheck(path="/v2/health/ready"),
        notes="in explicit mode ready before the model is loaded: set health.path to /v2/models/NAME/ready",
    ),
    "tgi": Runtime(health=HealthCheck(path="/health")),
    "torchserve": Runtime(
        health=HealthCheck(path="/ping"),
        notes="healthy seconds before the model answers; an exception in a handler is a 503, bad input too",
    ),
    "tensorflow-serving": Runtime(needs_path="/v1/models/NAME", notes="there is no health path of the server as a whole"),
    "kserve": Runtime(health=HealthCheck(path="/v2/health/ready"), notes="one model: set health.path to /v2/models/NAME/ready"),
    "mlserver": Runtime(health=HealthCheck(path="/v2/health/ready"), notes="one model: set health.path to /v2/models/NAME/ready"),
    "bentoml": Runtime(health=HealthCheck(path="/readyz"), notes="counts health checks as requests in its own metrics"),
    "ray-serve": Runtime(health=HealthCheck(path="/-/healthz"), notes="503 while it boots"),
    "llama-cpp": Runtime(health=HealthCheck(path="/health"), notes="503 while the model loads; SIGTERM cuts open streams after 30 s"),
    "ollama": Runtime(
        health=HealthCheck(path="/api/version"),
        notes="unloads an idle model after 5 minutes by default: set OLLAMA_KEEP_ALIVE=-1, or a small share starts cold again and again",
    ),
}
"""By the name a policy calls it."""
