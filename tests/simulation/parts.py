"""What surrounds the decision core in a simulation: disk, proxies and the world they are reached through. Everything here is the simulation's own."""

from dataclasses import dataclass, field

from policies.rollout import Delivered, Delivery
from policies.traffic import Traffic
from xds_server.adapters.store import Conflict, Stored
from xds_server.errors import TemporaryStoreError


class Crash(Exception):  # noqa: N818 - it is none: the process is gone
    """The process dies here."""


@dataclass
class Fuse:
    """Counts effect boundaries and blows at one of them, or by chance."""

    at: int = -1
    seen: int = 0
    odds: float = 0.0
    rng: object = None

    def boundary(self):
        self.seen += 1
        if self.seen == self.at:
            raise Crash
        self.chance()

    def chance(self):
        """A moment that is no boundary between effects: only bad luck strikes here."""
        if self.odds and self.rng.random() < self.odds:
            raise Crash


@dataclass
class Disk:
    """What survives a crash."""

    states: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    records: dict[str, list[bytes]] = field(default_factory=dict)


class DiskStore:
    """The store port over a `Disk`, with crashes around each commit and failures on demand."""

    def __init__(self, disk, fuse):
        self.disk, self.fuse, self.failing = disk, fuse, False

    async def load_all(self):
        return [Stored(name=name, revision=revision, state=state) for name, (revision, state) in self.disk.states.items()]

    async def save_many(self, batch):
        self.fuse.chance()
        return [self._write(name, state, expected) for name, state, expected in batch]

    async def commit(self, name, state, *, expected, records):
        self.fuse.boundary()
        revision = self._write(name, state, expected)
        self.disk.records.setdefault(name, []).extend(body for body, _ in records)
        self.fuse.boundary()
        return revision

    async def commit_many(self, batch):
        return [await self.commit(name, state, expected=expected, records=records) for name, state, expected, records in batch]

    def _write(self, name, state, expected):
        if self.failing:
            raise TemporaryStoreError("the disk is away")
        have = self.disk.states.get(name, (None, b""))[0]
        if have != expected:
            raise Conflict(name)
        revision = (have or 0) + 1
        self.disk.states[name] = (revision, state)
        return revision


@dataclass
class Heard:
    """One rollout's traffic as a proxy has it: in force until the lease runs out, then stable alone."""

    traffic: Traffic
    lease_until: float


class Proxy:
    """One Envoy: has what it heard last of each rollout; a share is a lease."""

    def __init__(self, name):
        self.name = name
        self.heard: dict[str, Heard] = {}

    def hear(self, wishes, time):
        """Gets all that is wanted now; what is not wanted any more is gone."""
        self.heard = {name: Heard(traffic=wanted, lease_until=time + wanted.lease.ttl_s) for name, wanted in wishes.items()}

    def arms(self, rollout, time):
        """The arms with what users get of them now."""
        heard = self.heard.get(rollout)
        return () if heard is None or time > heard.lease_until else heard.traffic.arms

    def share_bp(self, rollout, time):
        return sum(arm.share_bp for arm in self.arms(rollout, time))


@dataclass
class Mail:
    """An ACK (or NACK) on its way."""

    arrives: float
    proxy: str
    rollout: str
    publication: int
    good: bool


class SimWorld:
    """The world port of one process: what it wants, and which proxies it knows to have it."""

    def __init__(self, fuse, published):
        self.fuse, self.published = fuse, published
        self.wishes: dict[str, Traffic] = {}
        self.acked: dict[tuple[str, str], Mail] = {}

    def publish(self, traffic):
        self.fuse.boundary()
        self.published(traffic)
        self.wishes[traffic.rollout] = traffic
        self.fuse.boundary()

    def withdraw(self, rollout):
        self.fuse.boundary()
        self.wishes.pop(rollout, None)

    def flush(self):
        pass

    def delivered(self, rollout, connected, waiting_words="waiting"):
        """What the proxies have of the current wish, as far as their ACKs say."""
        wanted = self.wishes[rollout]
        mine = [self.acked.get((proxy, rollout)) for proxy in connected]
        told = [mail for mail in mine if mail is not None and mail.publication == wanted.publication]
        acked, rejected = sum(mail.good for mail in told), sum(not mail.good for mail in told)
        seen = Delivery(selected=len(connected), acked=acked, rejected=rejected, words="rejects" if rejected else waiting_words)
        return Delivered(publication=wanted.publication, delivery=seen)
