"""A version's pods in two halves, as if the one were a candidate for the other: what tells them apart is noise, whatever caused it.

Pods join the halves in turn as they are first heard of, and stay. Requests of either half are counted in every block (`policies.evidence.Block`);
what the engine learns of them is told in `policies.noise`.
"""

from typing import Any, Final

PODS_MAX: Final = 1024
"""Pods of one version that are told apart; later ones are not counted."""


class PodHalves:
    """Which half a pod is in, per rollout and version."""

    def __init__(self) -> None:
        self._pods: dict[str, dict[str, dict[tuple[str, int], int]]] = {}

    def of(self, rollout: str, identity: str, common: Any) -> int | None:
        """0 or 1; None = no pod answered, or one too many is known.

        Args:
            common: `AccessLogCommon` of an entry.
        """
        socket = common.upstream_remote_address.socket_address
        place = socket.address, socket.port_value
        pods = self._pods.get(rollout, {}).get(identity)
        if pods is None:
            pods = self._pods.setdefault(rollout, {}).setdefault(identity, {})
        half = pods.get(place)
        if half is None and place[0] and len(pods) < PODS_MAX:
            half = pods[place] = len(pods) % 2
        return half

    def keep(self, rollout: str, identities: frozenset[str]) -> None:
        """Forgets the versions of a rollout that it no longer has."""
        known = self._pods.pop(rollout, {})
        kept = {identity: pods for identity, pods in known.items() if identity in identities}
        if kept:
            self._pods[rollout] = kept
