"""What a group's Envoys are sent, rendered from every rollout's wish: pure, the same bytes for the same wishes in any order.

Neighbours: `clusters`, `routes`, `listeners`, `runtime` build the parts; `xds_server.core.snapshot` holds the result. `docs/envoy.md` says
what each part is for.
"""

from collections.abc import Iterator, Sequence

from policies.spec.policy import ProxiesPolicy
from policies.traffic import Traffic
from xds_server.core.snapshot import Resource
from xds_server.core.types import CDS, EDS, LDS, RDS, RTDS
from xds_server.errors import BugError
from xds_server.resources import names
from xds_server.resources.clusters import clusters
from xds_server.resources.listeners import listener
from xds_server.resources.routes import route_configuration
from xds_server.resources.runtime import layers


def render(
    proxies: ProxiesPolicy, wishes: Sequence[Traffic], *, leased: bool, als_cluster: str = names.XDS_CLUSTER
) -> dict[str, dict[str, Resource]]:
    """All resources of a group.

    Args:
        wishes: One per rollout; those of other groups are left out.
        leased: The proxies have our runtime layers: shares go there, with a lifetime. Otherwise they are written into the routes, and a
            rollout that demands the lease gets none.
        als_cluster: The bootstrap's cluster that access logs are sent to.
    Returns: Type URL -> name -> resource; every type is there, maybe empty.
    Raises: BugError: If two resources of one type have the same name and different content.
    """
    mine = sorted((wish for wish in wishes if wish.where.proxies == proxies.name), key=lambda wish: wish.rollout)
    found: dict[str, dict[str, Resource]] = {CDS: {}, EDS: {}, LDS: {}, RDS: {}, RTDS: {}}
    for type_url, each in _all(proxies, mine, leased=leased, als_cluster=als_cluster):
        if found[type_url].setdefault(each.name, each) != each:
            raise BugError(f"two resources of {type_url} are called {each.name!r}")
    return found


def _all(proxies: ProxiesPolicy, wishes: Sequence[Traffic], *, leased: bool, als_cluster: str) -> Iterator[tuple[str, Resource]]:
    for wish in wishes:
        yield from clusters(wish)
    for spec in proxies.listeners:
        inside = [wish for wish in wishes if wish.where.listener == spec.name]
        yield LDS, listener(proxies.name, spec, als_cluster=als_cluster)
        yield RDS, route_configuration(names.route_config(proxies.name, spec.name), inside, leased=leased)
    for layer in layers(wishes, leased=leased):
        yield RTDS, layer
