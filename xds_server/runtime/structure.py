"""Which part of a wish is structure, so that a proxy could reject it, and which is only how much traffic goes where.

Structure goes through a trial (`xds_server.core.staging`), shares never wait. Endpoints are structure too: cluster names carry them, so a
version with other pods is another cluster.
"""

from dataclasses import replace

from policies.lanes import Home, misfit
from policies.spec.policy import Lease, Variant
from policies.traffic import Arm, Traffic


def structure(wish: Traffic) -> Traffic:
    """The wish without its number and without all that says only how much and how long."""
    return replace(wish, publication=0, lease=Lease(), arms=tuple(Arm(variant=arm.variant) for arm in wish.arms))


def with_shares(steady: Traffic, newest: Traffic) -> Traffic:
    """A structure that proxies have with the newest shares; `steady` itself if they are its own.

    An arm that the newest wish no longer has gets nothing; one that it makes stable keeps what it has until that is delivered. Shares that do not
    fit beside each other in the old structure wait: stable has it all.
    """
    wanted = {arm.variant.identity: arm for arm in newest.arms}
    arms = tuple(
        arm
        if arm.variant.identity == newest.stable.identity
        else replace(wanted.get(arm.variant.identity, Arm(variant=arm.variant)), variant=arm.variant)
        for arm in steady.arms
    )
    if misfit([Home(share_bp=arm.share_bp, reserve_bp=arm.reserve_bp) for arm in arms], steady.lane):
        arms = tuple(Arm(variant=arm.variant) for arm in steady.arms)
    shown = replace(steady, publication=newest.publication, lease=newest.lease, arms=arms)
    return steady if shown == steady else shown


def adds_nothing(steady: Traffic, newest: Traffic) -> bool:
    """Whether a wish only gives traffic back to, or lets go of, what the proxies have: a revert after a promotion must not wait."""
    arms, others = {_plain(arm.variant) for arm in steady.arms}, {_plain(each) for each in (steady.stable, *steady.kept)}
    return (
        (newest.where, newest.assignment, newest.lane) == (steady.where, steady.assignment, steady.lane)
        and _plain(newest.stable) in others
        and {_plain(arm.variant) for arm in newest.arms} <= arms
        and {_plain(each) for each in newest.kept} <= arms | others
    )


def _plain(variant: Variant) -> Variant:
    return replace(variant, name="")
