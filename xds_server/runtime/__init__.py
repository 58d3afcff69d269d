"""Wiring and supervision: the one place where tasks are started. `server` has the parts and loops."""

import sys

import structlog
import uvloop

from xds_server.config import ServeConfig
from xds_server.runtime.server import serve

__all__ = ["run"]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def run(config: ServeConfig) -> int:
    """Runs the control plane until it is told to stop; see `server.serve` for what it raises."""
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[config.log_level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    code: int = uvloop.run(serve(config))
    return code
