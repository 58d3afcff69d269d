"""Serving runtimes: where each says that it is ready. Plain data; read from the runtimes' own sources and most of them run by hand.

A server that answers before its model is loaded (Triton in explicit mode, TorchServe's `/ping`) needs `health.path` of the model instead.
"""

from policies.spec.policy import HealthCheck

RUNTIMES: dict[str, HealthCheck | None] = {
    "http": None,
    "vllm": HealthCheck(path="/health"),
    "sglang": HealthCheck(path="/ready"),
    "triton": HealthCheck(path="/v2/health/ready"),
    "kserve": HealthCheck(path="/v2/health/ready"),
    "mlserver": HealthCheck(path="/v2/health/ready"),
    "tgi": HealthCheck(path="/health"),
    "torchserve": HealthCheck(path="/ping"),
    "bentoml": HealthCheck(path="/readyz"),
    "ray-serve": HealthCheck(path="/-/healthz"),
    "llama-cpp": HealthCheck(path="/health"),
    "ollama": HealthCheck(path="/api/version"),
}
"""Name -> its health check; None = its port accepting a connection is all that can be asked."""

NEEDS_PATH = {"tensorflow-serving": "TensorFlow Serving answers per model: set health.path to /v1/models/NAME"}
"""Runtimes whose health path has the model's name in it -> what to do."""
