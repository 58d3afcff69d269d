"""The settings of `crossfade serve`: one table, from which flags, `CROSSFADE_*` variables, help texts and docs follow.

`xds_server.cli` reads them once into a frozen `ServeConfig` and passes that down; nothing else looks at the environment.
Plain values: this module imports nothing of ours.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
class GitPlace:
    """Policy files in a git repository.

    Attributes:
        url: As git takes it; may hold a password, `str()` of the place never does.
        ref: Branch or tag that is followed; "HEAD" = the default branch.
        folder: Where in its tree the policies are; "" = the whole tree.
    """

    url: str = field(repr=False)
    ref: str = "HEAD"
    folder: str = ""

    @property
    def shown(self) -> str:
        """The URL as it may be told: over HTTP even the user can be a token."""
        return re.sub(r"^(https?://)[^/]*@", r"\1***@", re.sub(r"(?<=://)([^/:@]*):[^/]*@", r"\1:***@", self.url))

    def __str__(self) -> str:
        ref = "" if self.ref == "HEAD" else self.ref
        return self.shown + (f"#{ref}" if ref or self.folder else "") + (f":{self.folder}" if self.folder else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What `crossfade serve` runs with.

    Attributes:
        policies: Directory of the policy files, or where in git they are.
        policies_poll_s: Time between two looks at a git repository [s].
        policies_cache: Folder for what was fetched from git; None = one that goes with the process.
        webhook_secret: What the git server signs its calls with; b"" = calls are refused.
        store: `sqlite:PATH` or `memory:`.
        xds: Where proxies connect: xDS, access logs, load reports, "HOST:PORT".
        transport: What carries the streams of proxies: "wire" or "grpcio".
        api: JSON API, /metrics, health, "HOST:PORT".
        api_grpc: The same over gRPC, "HOST:PORT"; "" = the usual port, or none if it is taken.
        log_level: The least severe log lines written: debug, info, warning, error.
    """

    policies: Path | GitPlace
    policies_poll_s: float = 15.0
    policies_cache: Path | None = None
    webhook_secret: bytes = field(default=b"", repr=False)
    store: str = "sqlite:crossfade.db"
    xds: str = "127.0.0.1:18000"
    transport: str = "grpcio"
    api: str = "127.0.0.1:18080"
    api_grpc: str = ""
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


GIT_URL = re.compile(r"(git\+)?(git|ssh|https?|file)://|git\+|[\w.-]+@[\w.-]+:|[^#]*\.git([#:]|$)")
"""How a git repository is told from a directory: by its form alone."""

GIT_REF = re.compile(r"(?![-/.])(?!.*(\.\.|@\{|//|\.lock$|[/.]$))[^\s~^:?*\[\\\x00-\x1f\x7f]+")


def policies_place(value: str, *, where: str) -> Path | GitPlace:
    """Reads `PATH` or `GIT_URL[#ref][:folder]`. Raises: ConfigError."""
    if not GIT_URL.match(value):
        return Path(value)
    url, mark, rest = value.rpartition("#")
    if not mark:
        url, rest = value, ""
        if "://" not in value or value.rfind(".git:") > 0:
            url, dot_git, folder = value.rpartition(".git:")
            url, rest = (url + ".git", ":" + folder) if dot_git else (value, "")
    ref, _, folder = rest.partition(":")
    folder = folder.strip("/")
    shown = GitPlace(url=url).shown
    hint = "GIT_URL#BRANCH:FOLDER, such as git@example.com:team/models.git#main:policies"
    if not url or url.endswith(("://", ":")) or not url.isprintable() or " " in url:
        raise ConfigError(f"{shown!r} is not the URL of a git repository", where=where, hint=hint)
    if ref and not GIT_REF.fullmatch(ref):
        raise ConfigError(f"{ref!r} is not a branch or tag", where=where, hint=hint)
    if not folder.isprintable() or any(part in {"", ".", ".."} for part in folder.split("/") if folder):
        raise ConfigError(f"{folder!r} is not a folder of a repository", where=where, hint=hint)
    return GitPlace(url=url.removeprefix("git+"), ref=ref or "HEAD", folder=folder)


def _policies(setting: Setting, value: str) -> str:
    if not value:
        raise ConfigError("no policy directory given", where=setting.where, hint="crossfade serve --policies DIRECTORY")
    policies_place(value, where=setting.where)
    return value


DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(ms|s|m|h)")
UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
POLL_S_MIN, POLL_S_MAX = 1.0, 86_400.0


def _seconds(value: str) -> float:
    """`15s` as seconds; -1 = it is no time."""
    found = DURATION.fullmatch(value)
    return float(found[1]) * UNITS_S[found[2]] if found else -1.0


def _poll(setting: Setting, value: str) -> str:
    if not POLL_S_MIN <= _seconds(value) <= POLL_S_MAX:
        raise ConfigError(f"{value!r} is not a time between two looks", where=setting.where, hint="1s to 24h, such as 15s")
    return value


def _any(_: Setting, value: str) -> str:
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


API_GRPC = "127.0.0.1:18081"


def _optional_address(setting: Setting, value: str) -> str:
    return _address(setting, value) if value else ""


TRANSPORTS = ("wire", "grpcio")


def _transport(setting: Setting, value: str) -> str:
    if value not in TRANSPORTS:
        raise ConfigError(f"{value!r} is no transport", where=setting.where, hint=", ".join(TRANSPORTS))
    return value


LOG_LEVELS = ("debug", "info", "warning", "error")


def _log_level(setting: Setting, value: str) -> str:
    if value.lower() not in LOG_LEVELS:
        raise ConfigError(f"{value!r} is not a log level", where=setting.where, hint=", ".join(LOG_LEVELS))
    return value.lower()


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="policies",
        default=None,
        form="PATH|GIT_URL[#REF][:FOLDER]",
        help="Directory of the policy files (*.yaml, *.yml, also in sub-directories), or a branch of a git repository; "
        "edits and commits are noticed while it runs.",
        why="there is nothing sensible to serve without policies",
        check=_policies,
    ),
    Setting(
        name="policies_poll",
        default="15s",
        form="TIME",
        help="How often a git repository is asked for new commits.",
        why="soon enough for people; a webhook makes it at once",
        check=_poll,
    ),
    Setting(
        name="policies_cache",
        default="",
        form="FOLDER",
        help="Where fetched commits are kept; beside the store if not given.",
        why="the policies are known after a restart even while the git server is away",
        check=_any,
    ),
    Setting(
        name="webhook_secret_file",
        default="",
        form="FILE",
        help="File with the secret of the git server's webhook; CROSSFADE_WEBHOOK_SECRET may hold the secret itself.",
        why="without a secret anyone could make us ask the git server all the time, so calls are refused",
        check=_any,
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
        name="transport",
        default="grpcio",
        form="|".join(TRANSPORTS),
        help="What carries the streams of proxies: Crossfade's own HTTP/2, or that of grpcio.",
        why="wire takes a third of the CPU and a tenth of the memory of grpcio and passes the same tests; it becomes the default when the medians of its bench meet all bars",
        check=_transport,
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
        name="api_grpc",
        default="",
        form="HOST:PORT",
        help=f"The same API over gRPC, with reflection and health; {API_GRPC} if not given, or none if that port is taken.",
        why="a port of its own, as one port cannot speak both; loopback for the same reason",
        check=_optional_address,
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
        policies=policies_place(values["policies"], where="--policies"),
        policies_poll_s=_seconds(values["policies_poll"]),
        policies_cache=_cache(values["policies_cache"], values["store"]),
        store=values["store"],
        xds=values["xds"],
        transport=values["transport"],
        api=values["api"],
        api_grpc=values["api_grpc"],
        log_level=values["log_level"],
    )


def _cache(given: str, store: str) -> Path | None:
    kind, _, path = store.partition(":")
    return Path(given) if given else Path(f"{path}.git") if kind == "sqlite" else None
