"""What a replay is fed with: the evidence of a rollout in order of time, wherever it comes from.

Neighbours: `xds_server.adapters.recordings` and `prometheus_history` read what was, the simulation of this package makes what could be; the
replay feeds either to the real engine. Live evidence has more to it: `policies.evidence.Block`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from policies.evidence import Counts, Halves


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What users saw of each variant since the block before.

    Attributes:
        at: End of the block [s since the start of the recording], above that of the block before.
        arms: Variant name, "stable" among them -> its counts; one without requests may be left out.
        halves: Variant name -> what either half of its pods did, as in live evidence, where the source knows.
    """

    at: float
    arms: Mapping[str, Counts]
    halves: Mapping[str, Halves] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """Shares that came into force.

    Attributes:
        at: From the block that ends here on [s since the start of the recording].
        shares: Variant name, "stable" not among them -> its share of users' requests [hundredths of a per cent].
        step: The step of the policy, as people read it; "" = none, or not known.
    """

    at: float
    shares: Mapping[str, int]
    step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One release as it was seen.

    A time without blocks is a time in which nothing was seen: what the silence means is the engine's to say.

    Attributes:
        blocks: Ascending in `at`.
        started: Where its time begins [s since the epoch, UTC].
        variants: Variant name -> version; "" where it is not known.
        source: Where it comes from, as people read it: a file, an address.
        in_force: Shares in force, ascending in `at`; () = the source does not know them.
        dropped: What the source had and `blocks` have not: why, in words -> how many (rows, samples or blocks, as the words say).
    """

    blocks: tuple[Block, ...]
    started: float = 0.0
    variants: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    in_force: tuple[InForce, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Block]:
        return iter(self.blocks)

    @property
    def duration_s(self) -> float:
        """From the start to the end of the last block [s]."""
        return self.blocks[-1].at if self.blocks else 0.0
