"""The settings of `crossfade serve`: one table, from which flags, `CROSSFADE_*` variables, help texts and docs follow.

`xds_server.cli` reads them once into a frozen `ServeConfig` and passes that down; nothing else looks at the environment.
Plain values: this module imports nothing of ours.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path


class ConfigError(ValueError):
    """A setting makes no sense. `where` names the flag and the variable it can come from."""

    def __init__(self, message: str, *, where: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen: an IP address or host name, and a port (0 = the system chooses)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What `crossfade serve` runs with.

    Attributes:
        policies: Directory of the policy files.
        store: `sqlite:PATH` or `memory:`.
        xds: Where proxies connect: xDS, access logs, load reports, "HOST:PORT".
        api: JSON API, /metrics, health, "HOST:PORT".
        log_level: The least severe log lines written: debug, info, warning, error.
    """

    policies: Path
    store: str = "sqlite:crossfade.db"
    xds: str = "127.0.0.1:18000"
    api: str = "127.0.0.1:18080"
    log_level: str = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table.

    Attributes:
        default: None = must be given.
        form: How a value looks, for help texts.
        check: Raises ConfigError, or returns the value in its one written form.
        why: Why the default is what it is.
    """

    name: str
    default: str | None
    form: str
    help: str
    why: str
    check: Callable[["Setting", str], str]

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "CROSSFADE_" + self.name.upper()

    @property
    def where(self) -> str:
        return f"{self.flag} (or {self.variable})"


GIT_URL = re.compile(r"^(git\+|git@|git://|ssh://|https?://|file://)|\.git(#|$)")


def _policies(setting: Setting, value: str) -> str:
    if GIT_URL.search(value):
        raise ConfigError(
            f"policies from a git URL are not supported yet: {value}",
            where=setting.where,
            hint="clone it and give the directory: git clone ... policies && crossfade serve --policies policies",
        )
    if not value:
        raise ConfigError("no policy directory given", where=setting.where, hint="crossfade serve --policies DIRECTORY")
    return value


def _store(setting: Setting, value: str) -> str:
    kind, colon, rest = value.partition(":")
    if value == "memory:" or (kind == "sqlite" and rest):
        return value
    if kind == "etcd" and colon:
        raise ConfigError("the etcd store is not supported yet", where=setting.where, hint="use sqlite:PATH")
    raise ConfigError(f"{value!r} is not a store", where=setting.where, hint="sqlite:PATH, such as sqlite:crossfade.db, or memory:")


def address(value: str, *, where: str) -> Address:
    """Reads `HOST:PORT` (`[::1]:18000` for IPv6). Raises: ConfigError."""
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if colon and bare and port.isascii() and port.isdigit() and int(port) <= 65535 and (":" not in bare or host != bare):
        return Address(host=bare, port=int(port))
    raise ConfigError(f"{value!r} is not an address", where=where, hint="HOST:PORT, such as 127.0.0.1:18000")


def _address(setting: Setting, value: str) -> str:
    return str(address(value, where=setting.where))


LOG_LEVELS = ("debug", "info", "warning", "error")


def _log_level(setting: Setting, value: str) -> str:
    if value.lower() not in LOG_LEVELS:
        raise ConfigError(f"{value!r} is not a log level", where=setting.where, hint=", ".join(LOG_LEVELS))
    return value.lower()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="policies",
        default=None,
        form="PATH",
        help="Directory of the policy files (*.yaml, *.yml, also in sub-directories); edits are noticed while it runs.",
        why="there is nothing sensible to serve without policies",
        check=_policies,
    ),
    Setting(
        name="store",
        default="sqlite:crossfade.db",
        form="sqlite:PATH|memory:",
        help="Where the state of the rollouts is kept; memory: forgets it at the end.",
        why="one file beside the working directory survives a restart and needs no set-up",
        check=_store,
    ),
    Setting(
        name="xds",
        default="127.0.0.1:18000",
        form="HOST:PORT",
        help="Where proxies connect: xDS, access logs, load reports (gRPC).",
        why="loopback until someone decides who may reach it: the port is neither encrypted nor authenticated",
        check=_address,
    ),
    Setting(
        name="api",
        default="127.0.0.1:18080",
        form="HOST:PORT",
        help="JSON API, /metrics, /healthz and /readyz (HTTP).",
        why="loopback: whoever reaches it can abort and promote",
        check=_address,
    ),
    Setting(
        name="log_level",
        default="info",
        form="|".join(LOG_LEVELS),
        help="The least severe log lines that are written, to stderr.",
        why="one line per decision; debug adds one per xDS request",
        check=_log_level,
    ),
)


def read_config(given: Mapping[str, str | None]) -> ServeConfig:
    """Builds the configuration out of what flags and environment said.

    Args:
        given: Value by setting name; None or absent = the default.

    Raises: ConfigError: The first setting that makes no sense.
    """
    values: dict[str, str] = {}
    for setting in SETTINGS:
        value = given.get(setting.name)
        value = setting.default if value is None else value
        values[setting.name] = setting.check(setting, "" if value is None else value)
    return ServeConfig(
        policies=Path(values["policies"]),
        store=values["store"],
        xds=values["xds"],
        api=values["api"],
        log_level=values["log_level"],
    )
