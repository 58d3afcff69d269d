"""Holds the access log against load reports: the log is rich and may lose entries, the report is exact and poor.

Per cluster a balance: what reports booked as finished minus what the log brought. At rest it is the number of lost entries; under load reports
come a little later than the log, which makes it too small for a moment. So only what stays missing for `SETTLE_S` is lost; it is handed out
once, to be counted from the report. A log that brings more than the reports (Envoy counts a cluster from the first report that names it; an
Envoy may send no reports at all) is forgiven as far as the delay cannot explain it, so that it does not hide a later loss for ever.
Neighbours: `classify.Booked` says what a report makes of each attempt. Source: LRS as recorded in tests/fixtures/access_log.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

SETTLE_S: Final = 1.5
LEAST: Final = 5
"""Fewer missing requests are noise [requests]."""

TOLERANCE: Final = 0.01
"""Part of the reported requests that may be missing."""

WINDOW_S: Final = 10.0

POINTS_MAX: Final = 1024
"""Points kept per cluster and series, however often somebody reports."""


class _Cluster:
    __slots__ = ("balance", "errors_balance", "gap", "history", "logged", "lost", "reports")

    def __init__(self) -> None:
        self.balance = 0
        self.errors_balance = 0
        self.logged = 0
        self.gap = 0.0
        self.history: deque[tuple[float, int, int]] = deque(maxlen=POINTS_MAX)
        """(when, balance, logged so far)."""
        self.reports: deque[tuple[float, int]] = deque(maxlen=POINTS_MAX)
        self.lost: deque[tuple[float, int]] = deque(maxlen=POINTS_MAX)

    def look(self, now: float) -> tuple[int, int]:
        """(requests, errors) lost for good and not handed out before."""
        self.history.append((now, self.balance, self.logged))
        _forget(self.history, now - SETTLE_S)
        _forget(self.reports, now - WINDOW_S)
        _forget(self.lost, now - WINDOW_S)
        total = sum(finished for _, finished in self.reports)
        start, _, logged_then = self.history[0]
        if now - start < SETTLE_S * 0.9:
            return 0, 0
        balances = [balance for _, balance, _ in self.history]
        surplus = -max(balances) - (self.logged - logged_then)
        if surplus > 0:
            self.balance += surplus
            self.errors_balance = max(self.errors_balance, 0)
            self.history.clear()
        missing = min(balances)
        lately = sum(requests for _, requests in self.lost)
        self.gap = min((max(missing, 0) + lately) / total, 1.0) if total else 0.0
        if missing < LEAST or missing <= TOLERANCE * total:
            return 0, 0
        errors = min(max(self.errors_balance, 0), missing)
        self.balance -= missing
        self.errors_balance -= errors
        self.history.clear()
        self.lost.append((now, missing))
        return missing, errors


class Audit:
    def __init__(self) -> None:
        self._clusters: dict[str, _Cluster] = {}

    def follow(self, names: Iterable[str], gone: Iterable[str] = ()) -> None:
        """Follows these clusters too and forgets those that are gone."""
        for name in gone:
            self._clusters.pop(name, None)
        for name in names:
            self._clusters.setdefault(name, _Cluster())

    def logged(self, name: str, attempts: int = 1, *, errors: int = 0) -> None:
        """The log brought attempts that reports book, so many of them as errors."""
        cluster = self._clusters.get(name)
        if cluster is not None:
            cluster.balance -= attempts
            cluster.errors_balance -= errors
            cluster.logged += attempts

    def reported(self, name: str, finished: int, errors: int, *, now: float) -> None:
        cluster = self._clusters.get(name)
        if cluster is not None and finished:
            cluster.balance += finished
            cluster.errors_balance += errors
            cluster.reports.append((now, finished))
            cluster.history.append((now, cluster.balance, cluster.logged))

    def missing(self, now: float) -> Iterator[tuple[str, int, int]]:
        """(cluster, requests, errors) that are lost for good and were not handed out before."""
        for name, cluster in self._clusters.items():
            requests, errors = cluster.look(now)
            if requests:
                yield name, requests, errors

    def gap(self, name: str) -> float:
        """Part of a cluster's requests of the last `WINDOW_S` that the log did not bring."""
        cluster = self._clusters.get(name)
        return cluster.gap if cluster else 0.0


def _forget(series: "deque[tuple[float, int]] | deque[tuple[float, int, int]]", before: float) -> None:
    while series and series[0][0] < before:
        series.popleft()
