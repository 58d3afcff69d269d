"""Holds the access log against load reports: the log is rich and may lose entries, the report is exact and poor.

Per cluster: what reports counted as finished minus what the log brought. The two arrive at different moments, so only what stays missing for
`SETTLE_S` is lost; it is handed out once, to be counted from the report. Where the log brings more (requests the client gave up are in
no report), the surplus is forgiven, so that it cannot hide a later loss.
"""

from collections import deque
from collections.abc import Iterable, Iterator

SETTLE_S = 1.5
LEAST = 5
"""Fewer missing requests are noise [requests]."""

TOLERANCE = 0.01
"""Part of the reported requests that may be missing."""

WINDOW_S = 10.0


class _Cluster:
    __slots__ = ("balance", "errors_balance", "gap", "history", "reports")

    def __init__(self) -> None:
        self.balance = 0
        self.errors_balance = 0
        self.gap = 0.0
        self.history: deque[tuple[float, int]] = deque()
        self.reports: deque[tuple[float, int]] = deque()


class Audit:
    def __init__(self) -> None:
        self._clusters: dict[str, _Cluster] = {}

    def keep(self, names: Iterable[str]) -> None:
        """Forgets clusters that nobody owns any more."""
        wanted = set(names)
        self._clusters = {name: cluster for name, cluster in self._clusters.items() if name in wanted}

    def logged(self, name: str, *, error: bool) -> None:
        cluster = self._clusters.get(name)
        if cluster is not None:
            cluster.balance -= 1
            cluster.errors_balance -= error

    def reported(self, name: str, finished: int, errors: int, *, now: float) -> None:
        cluster = self._clusters.setdefault(name, _Cluster())
        cluster.balance += finished
        cluster.errors_balance += errors
        cluster.reports.append((now, finished))
        while cluster.reports[0][0] < now - WINDOW_S:
            cluster.reports.popleft()

    def missing(self, now: float) -> Iterator[tuple[str, int, int]]:
        """(cluster, requests, errors) that are lost for good and were not handed out before."""
        for name, cluster in self._clusters.items():
            cluster.history.append((now, cluster.balance))
            while cluster.history[0][0] < now - SETTLE_S:
                cluster.history.popleft()
            settled = now - cluster.history[0][0] >= SETTLE_S * 0.9
            least = min(balance for _, balance in cluster.history)
            if settled and least < 0:
                cluster.balance -= least
                cluster.errors_balance = max(cluster.errors_balance, 0)
                cluster.history.clear()
                continue
            total = sum(finished for _, finished in cluster.reports)
            cluster.gap = max(least, 0) / total if settled and total else 0.0
            if settled and least >= LEAST and cluster.gap > TOLERANCE:
                errors = min(max(cluster.errors_balance, 0), least)
                cluster.balance -= least
                cluster.errors_balance -= errors
                cluster.history.clear()
                yield name, least, errors

    def gap(self, name: str) -> float:
        cluster = self._clusters.get(name)
        return cluster.gap if cluster else 0.0
