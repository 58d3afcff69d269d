"""What a client of one xDS stream must be sent, by the simplest code there is: the judge of `xds_server.core.stream` in tests.

It is fed all that happens on a stream and works out each answer anew from plain dictionaries: no versions of worlds, no hashes, no
remembered plans, nothing shared. `tests.interleaving` compares every answer of the real stream with it.
"""

from dataclasses import dataclass, field

from xds_server.core.facts import Variant
from xds_server.core.types import BY_URL, ORDER

LATE = 0.8
"""Part of a lifetime after which a heartbeat must carry the whole resource."""


@dataclass(frozen=True)
class Message:
    """A response without its nonce: version and lifetime by name, names removed."""

    type_url: str
    content: dict
    removed: frozenset = frozenset()
    bodiless: bool = False


@dataclass
class Open:
    """A response that was not answered; `fresh` is the news in it, None for a removal."""

    names: frozenset
    fresh: dict
    everything: bool
    nonce: str = ""


@dataclass
class Record:
    """What was said about one type, by either side."""

    spoken: bool = False
    named: bool = False
    names: set = field(default_factory=set)
    wild: bool = False
    told: dict = field(default_factory=dict)  # (version, lifetime) by name
    refused: dict = field(default_factory=dict)  # version by name, None for a removal
    due: set = field(default_factory=set)
    again: set = field(default_factory=set)
    owed: bool = False
    open: Open | None = None
    nonce: str = ""
    leased_at: dict = field(default_factory=dict)

    def covers(self, name):
        return self.wild or name in self.names


class Oracle:
    def __init__(self, variant):
        self.sotw = variant is Variant.SOTW
        self.types = {}

    # What the client says.

    def receive(self, request):
        """The kinds of facts that the request means."""
        url = request.type_url
        record = self.types.setdefault(url, Record())
        first, record.spoken = not record.spoken, True
        answers = not first and record.open is not None and request.nonce == record.open.nonce
        repeated = self.sotw and not first and not BY_URL[url].wildcard and record.open is None and request.nonce == record.nonce
        facts = []
        if answers:
            facts.append("Nacked" if request.error is not None else "Acked")
            self.answered(record, rejected=request.error is not None)
        elif not first and request.nonce not in {"", record.nonce}:
            facts.append("Stale")
        if self.wish(record, request, full=BY_URL[url].wildcard, first=first) or first:
            facts.append("Subscribed")
        elif repeated and request.error is None:
            record.again |= record.names
        if first:
            record.told = {name: (version, None) for name, version in request.initial_versions.items()}
        return facts

    @staticmethod
    def refuses(record, left):
        """What it rejects now; if that is less than before, the rest is said again."""
        if left != record.refused:
            record.due |= left.keys() - (record.open.names if record.open else set())
        record.refused = left

    @staticmethod
    def answered(record, *, rejected):
        said, record.open = record.open, None
        if rejected:
            record.refused |= said.fresh
        else:
            Oracle.refuses(record, {name: v for name, v in record.refused.items() if not said.everything and name not in said.names})

    def wish(self, record, request, *, full, first):
        """True if it changed something or wants to hear something again."""
        names, wild = record.names, record.wild
        star = {"*"} if full else set()
        said, dropped = set(request.names), set(request.unsubscribe)
        if self.sotw:
            record.named = record.named or bool(said)
            record.names, record.wild = said - star, full and ("*" in said or not record.named)
            due, begins = record.names - names, record.wild and not wild
        else:
            begins = full and ("*" in said or (first and not said))
            record.wild = begins or (wild and "*" not in dropped)
            record.names = (names - dropped) | (said - star)
            due = (said - star) | ((names - record.names) if record.wild else set())
        shrank = bool(names - record.names) or (wild and not record.wild)
        record.due |= due
        record.owed = record.owed or begins
        if begins and record.open is not None:
            record.due |= record.open.names
        if shrank:
            self.forget_the_unwanted(record)
        return bool(due or begins or shrank)

    @staticmethod
    def forget_the_unwanted(record):
        record.told = {name: told for name, told in record.told.items() if record.covers(name)}
        record.again = set(filter(record.covers, record.again))
        record.due = set(filter(record.covers, record.due))
        left = {name: version for name, version in record.refused.items() if record.covers(name)}
        Oracle.refuses(record, left)

    # What it must be told.

    def offer(self, snapshot, now):
        said, before = [], None
        while True:
            unsettled = {
                url for url, record in self.types.items() if record.open or record.refused or any(self.missing(url, record, snapshot))
            }
            if unsettled == before:
                return said
            before = unsettled
            for url in sorted(self.types, key=ORDER.get):
                if self.types[url].open is None:
                    said += self.say(url, self.types[url], snapshot, held=not unsettled.isdisjoint(BY_URL[url].parents), now=now)

    @staticmethod
    def missing(url, record, snapshot):
        """News, names that are gone, names that never were, and whether an answer is owed at all."""
        wanted = {name: (each.version, each.ttl_s) for name, each in snapshot.of(url).items() if record.covers(name)}
        news = {
            name: each
            for name, each in wanted.items()
            if record.told.get(name) != each or name in record.due or (name in record.again and record.refused.get(name) != each[0])
        }
        gone = record.told.keys() - wanted.keys()
        absent = record.due - wanted.keys() - record.told.keys()
        if news or gone or absent or record.owed:
            gone = gone | {name for name, version in record.refused.items() if version is None and name not in wanted}
        return news, gone, absent, record.owed

    def say(self, url, record, snapshot, *, held, now):
        news, gone, absent, owed = self.missing(url, record, snapshot)
        everything = self.sotw and BY_URL[url].wildcard
        kept = gone if held else set()
        gone = gone - kept
        removed = frozenset() if self.sotw else frozenset(gone | absent)
        content = dict(news)
        must = bool(content or removed or (owed and not self.sotw))
        if everything:
            must = bool(news or gone or absent or owed)
            world = {name: (each.version, each.ttl_s) for name, each in snapshot.of(url).items() if record.covers(name)}
            content = {name: record.told[name] for name in kept} | world
        for name in gone:
            record.told.pop(name, None)
            record.leased_at.pop(name, None)
            if self.sotw and not everything:
                record.refused.pop(name, None)
        record.told |= news
        record.due, record.again, record.owed = set(), set(), False
        if not must:
            return []
        fresh = {name: version for name, (version, _) in news.items()} | dict.fromkeys(removed)
        self.opens(record, content, removed, fresh, everything=everything, now=now)
        self.take_endpoints_along(url, news, snapshot)
        return [Message(url, content, removed)]

    @staticmethod
    def opens(record, content, removed, fresh, *, everything, now):
        record.open = Open(frozenset(content) | removed, fresh, everything)
        record.leased_at |= {name: now for name, (_, ttl) in content.items() if ttl is not None}

    def take_endpoints_along(self, url, news, snapshot):
        child = self.types.get(BY_URL[url].child)
        if child is not None:
            for name in news:
                pointed = {name} | {needed for needed_url, needed in snapshot.of(url)[name].references if needed_url == BY_URL[url].child}
                child.again |= set(filter(child.covers, pointed))

    def heartbeat(self, url, names, now):
        record = self.types.get(url)
        if record is None or record.open is not None:
            return []
        leased = {
            name: record.told[name] for name in names if record.told.get(name, (0, None))[1] is not None and name not in record.refused
        }
        if not leased:
            return []
        late = any(now - record.leased_at.get(name, now) > LATE * ttl for name, (_, ttl) in leased.items())
        fresh = {name: version for name, (version, _) in leased.items()}
        self.opens(record, leased, frozenset(), fresh, everything=False, now=now)
        return [Message(url, leased, bodiless=not self.sotw and not late)]

    def named(self, url, nonce):
        """The stream's own name of the response that was just worked out."""
        self.types[url].nonce = self.types[url].open.nonce = nonce
