"""What the API and the command line can ask of the running control plane: a port, implemented by the runtime.

Neighbours: `http_api` speaks it over HTTP; `xds_server.runtime` implements it. Everything handed out is plain JSON in the shapes of
`policies.report` (`crossfade status -o json`), made fresh for each call, so that nobody can reach into the state.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from policies.assign import Placement

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
JsonObject = dict[str, Json]

PHASES = (
    "idle",
    "running",
    "holding",
    "waiting_approval",
    "waiting_capacity",
    "paused",
    "frozen",
    "reverting",
    "reverted",
    "promoting",
    "baking",
    "promoted",
    "invalid",
)
"""Every word `phase` can be in the status."""

VERBS = ("start", "advance", "promote", "abort", "pause", "resume", "retry", "approve", "rollback", "freeze", "unfreeze")
"""What `act` can do: the values of `policies.rollout.Verb`."""

VERBS_OF_ALL = ("freeze", "unfreeze")
"""What can be said to all rollouts at once."""

NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
"""A DNS label, as rollouts are named."""

NAME_HINT = "lower-case letters, digits and '-', at most 63"

TEXT_MAX = {"reason": 2000, "actor": 200, "idempotency_key": 200, "to": 300}
"""Longest texts of an act [characters]: they are kept for good in the decision record."""

WATCHERS_MAX = 64
"""Clients that watch at once, over each API."""

NODE_MAX = 512
"""Longest pattern of node ids [characters]; an id has no more."""

HISTORY_DEFAULT = 20
HISTORY_MAX = 1000
"""Decision records handed out at most in one answer."""


class Fault(Enum):
    """Why an act was not carried out. The value is the `code` of the error as the API says it."""

    UNKNOWN_ROLLOUT = "unknown_rollout"
    UNKNOWN_VERB = "unknown_verb"
    REFUSED = "refused"
    """The rollout is in a state in which the verb means nothing."""
    STORE_UNAVAILABLE = "store_unavailable"
    """The decision could not be saved, so it was not taken."""
    NOT_READY = "not_ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether this process can do its work; `waiting_for` says what is missing, in words."""

    ready: bool
    waiting_for: tuple[str, ...] = ()


class ActError(Exception):
    """An act was not carried out; the state is unchanged."""

    def __init__(self, fault: Fault, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.hint = hint


class BlockListener(Protocol):
    """One who listens to the evidence of a rollout."""

    async def take(self, timeout_s: float) -> tuple[int, bytes | None]:
        """The next block as JSON, as soon as there is one, and how many before it were lost because nobody took them; None = none came in time."""
        ...


class Control(Protocol):
    """The running control plane."""

    def rollouts(self) -> list[JsonObject]:
        """Every rollout as `policies.report.report` writes it, in the order of their names."""
        ...

    def rollout(self, name: str) -> JsonObject | None:
        """One rollout; None = there is none of that name."""
        ...

    async def history(self, name: str, last: int) -> list[JsonObject] | None:
        """Its last decision records (`policies.report.record`), oldest first; None = there is no rollout of that name.

        Args:
            last: How many at most, 1 <= last <= HISTORY_MAX.
        """
        ...

    def proxies(self, node: str = "*") -> list[JsonObject]:
        """Every stream of every connected proxy whose id matches the pattern, and the proxies that were turned away lately.

        Each row:
        {"node", "cluster", "version", "peer", "group", "variant": "sotw"|"delta", "service": "ADS" or the type of a stream of its own,
        "leased": bool, "connected_since": RFC 3339, "sync": the worst of its types, "types": [{"type": "CDS",
        "sync": "NOT_SENT"|"SYNCED"|"STALE"|"ERROR", "sent": version, "acked": version, "acked_age_s": since the last ACK or null, "words"}],
        "refused": what it was told or null, "times": how often or null}
        """
        ...

    def groups(self) -> list[JsonObject]:
        """Every Proxies document in force, with what an Envoy must say to be of its group.

        Each row: {"name", "select": {"cluster", "node_id", "metadata": {path: value}}, "listeners": [{"name", "address", "port"}]}; what a
        selector leaves out is null.
        """
        ...

    def policy_errors(self) -> list[JsonObject]:
        """Faults of the policy files as they are on disk now: [{file, line, column, path, message, expected, hint}]."""
        ...

    async def act(self, name: str, verb: str, *, to: str, reason: str, actor: str, idempotency_key: str, dry_run: bool) -> JsonObject:
        """Carries a verb out and returns the decision record it caused, with `"dry_run": true` when nothing was changed.

        Args:
            to: Of a rollback: the version or identity to go to; of a promotion: the arm. "" = the obvious one.
            idempotency_key: Acts with the key of an earlier one change nothing and return what that one did; "" = none.

        Raises: ActError: If it was not carried out.
        """
        ...

    def names(self) -> list[str]:
        """The names of all rollouts, sorted: cheap, where `rollouts` is not."""
        ...

    def placement(self, name: str) -> "Placement | None":
        """Who gets which variant of a rollout, now and in the steps to come; None = it owns no traffic. Cheap: asked for every request."""
        ...

    def blocks(self, name: str) -> AbstractContextManager[BlockListener] | None:
        """The evidence of a rollout (it need not be there yet) as it is closed, as long as the context is open; None = too many listen already."""
        ...

    def diff(self, texts: Mapping[str, bytes], *, whole: bool) -> JsonObject:
        """What putting these files in force would change: {"changes": […], "errors": […]}. Reads only, and may run in a thread.

        Args:
            whole: They are all there would be; else the other documents stay, and only those in the files are compared.
        """
        ...

    def policies_changed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Looks at the source of the policies now. False = nobody we know says so, and nothing is done."""
        ...

    def version(self) -> int:
        """Grows with every change of anything above."""
        ...

    async def wait_change(self, since: int, timeout_s: float) -> int:
        """The version as soon as it is not `since` any more, or after the time-out."""
        ...

    def health(self) -> Health:
        """Ready = policies loaded, store reachable."""
        ...

    def metrics(self) -> bytes:
        """All metrics in the OpenMetrics text format."""
        ...
