"""Plays the stories in `transcripts/`: what the world and a client do is written there by hand, what the server does is written by it.

A transcript is read line by line. Its author writes
    # words                           for the reader; the first line is the title
    stream sotw | delta               a new stream begins; another one is over
    == 2: CDS v2 [a@2 b@1] RDS v1 []  snapshot 2: these types are now all of this; the others stay as they were
    == 2 trial: RDS v2 [a@2]          the same of a second world, which began as a copy of the first ("home")
    see trial                         the stream is shown that world from now on
    <- ask CDS [a b]                  answers nothing; delta also -[c]; `has [a@1]` is what it kept, `nonce x` is left over
    <- ACK CDS | NACK RDS "words"     answers the last response of the type; `#3` answers that one; [names] if the names changed
    beat RTDS [a]                     a heartbeat of leased resources
    later 2.5 s                       time passes
and the server, indented,
    -> #3 CDS v2 [a@2] -[c]           response 3 of this stream: version of the world, resources with versions, removed names
    .. words                          what the control plane knows now that it did not know before
`name@version/3s` is a leased resource; "bodiless" marks a heartbeat that carries names and lifetimes only. Nothing after a line is silence.

Each answer of the stream is compared with the oracle's as well, so that rewriting a transcript cannot make a fault look right.
"""

import re
from pathlib import Path

from tests.oracle import Oracle
from xds_server.core.facts import Nacked, Request, Stale, Variant
from xds_server.core.snapshot import Resource, Snapshot
from xds_server.core.stream import AdsStream
from xds_server.core.types import TYPES, short

FOLDER = Path(__file__).parent / "transcripts"
URLS = {row.short: row.url for row in TYPES}
HOME = "home"

SHORT = r"(?P<short>\w+)"
NAMES = r"\[(?P<names>[^]]*)\]"
WORLD = re.compile(r"== (?P<serial>\d+)(?: (?P<world>\w+))?:(?P<parts>(?: \w+ \w+ \[[^]]*\])*)")
PART = re.compile(rf" {SHORT} (?P<version>\w+) {NAMES}")
ASK = re.compile(rf"<- ask {SHORT}(?: {NAMES})?(?: -\[(?P<dropped>[^]]*)\])?(?: has \[(?P<has>[^]]*)\])?(?: nonce (?P<nonce>\S+))?")
ANSWER = re.compile(rf'<- (?P<verdict>ACK|NACK) {SHORT}(?: #(?P<number>\d+))?(?: {NAMES})?(?: "(?P<words>[^"]*)")?')
BEAT = re.compile(rf"beat {SHORT} {NAMES}")
RESOURCE = re.compile(r"(?P<name>[^@\s]+)@(?P<version>[^/\s]+)(?:/(?P<ttl_s>[\d.]+)s)?")


def play(text):
    """The transcript as it must be: the author's lines, and after each what the server did."""
    stage, lines = Stage(), []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("    "):  # the server's, of the last time
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            try:
                lines += [f"    {said}" for said in stage.step(line)]
            except (ValueError, AssertionError) as error:
                raise ValueError(f"line {number}: {error}") from error
    return "\n".join(lines) + "\n"


class Stage:
    """The control plane's side of one client."""

    def __init__(self):
        self.worlds = {}
        self.now, self.beat = 0.0, 0
        self.stream = None

    def step(self, line):
        said = self.act(line)
        return [*said, *self.learnt()]

    def act(self, line):
        match line.split():
            case ["stream", variant]:
                return self.begin(Variant(variant))
            case ["see" | "beat" | "<-", *_] if self.stream is None:
                raise ValueError(f"{line!r} comes before any stream; hint: write `stream sotw` or `stream delta` above")
            case ["see", world] if world in self.worlds:
                self.at = world
                return self.offer()
            case ["later", seconds, "s"]:
                self.now += float(seconds)
                return []
            case ["beat", *_]:
                return self.heartbeat(**_groups(BEAT, line))
            case ["==", *_]:
                return self.publish(**_groups(WORLD, line))
            case ["<-", "ask", *_]:
                return self.ask(**_groups(ASK, line))
            case ["<-", *_]:
                return self.answer(**_groups(ANSWER, line))
        raise ValueError(f"{line!r} is no step; hint: tests/scenarios/runner.py lists them")

    def begin(self, variant):
        self.variant, self.stream, self.oracle = variant, AdsStream(variant), Oracle(variant)
        self.at, self.sent, self.listed = HOME, [], {}
        self.synced, self.errors = 0, ()
        return []

    # What happens in the world.

    def publish(self, serial, world, parts):
        world = world or HOME
        before = self.worlds.get(world) or self.worlds.get(HOME) or Snapshot(serial=0, resources={})
        resources, versions = dict(before.resources), dict(before.versions)
        for part in PART.finditer(parts):
            url = _url(part["short"])
            resources[url] = {each["name"]: _resource(each) for each in _resources(part["names"])}
            versions[url] = part["version"]
        self.worlds[world] = Snapshot(serial=int(serial), resources=resources, versions=versions)
        return self.offer() if self.stream and self.at == world else []

    def offer(self):
        snapshot = self.worlds.get(self.at)
        if snapshot is None:
            return []
        return self.take(self.stream.offer(snapshot, now=self.now), self.oracle.offer(snapshot, self.now))

    def heartbeat(self, short, names):
        self.beat += 1
        url, names = _url(short), _names(names)
        return self.take(self.stream.heartbeat(url, names, beat=self.beat, now=self.now), self.oracle.heartbeat(url, names, self.now))

    # What the client says.

    def ask(self, short, names, dropped, has, nonce):
        url, self.listed[short] = _url(short), _names(names)
        initial = {each["name"]: each["version"] for each in _resources(has)}
        return self.receive(
            Request(type_url=url, nonce=nonce or "", names=_names(names), unsubscribe=_names(dropped), initial_versions=initial)
        )

    def answer(self, verdict, short, number, names, words):
        url = _url(short)
        answered = [each for place, each in enumerate(self.sent, 1) if each.type_url == url and number in {None, str(place)}]
        if not answered:
            raise ValueError(f"'<- {verdict} {short}' answers nothing; hint: no such response was sent on this stream")
        listed = _names(names)
        if self.variant is Variant.SOTW:
            listed = self.listed[short] = self.listed[short] if names is None else listed
        error = (words or "") if verdict == "NACK" else None
        return self.receive(Request(type_url=url, nonce=answered[-1].nonce, error=error, names=listed))

    def receive(self, request):
        facts = self.stream.receive(request, now=self.now)
        assert [each.__class__.__name__ for each in facts] == self.oracle.receive(request), (
            "the oracle understands this request in another way"
        )
        known = []
        for fact in facts:
            match fact:
                case Stale():
                    known.append(".. that answers nothing: the nonce is an old one")
                case Nacked(resources=names):
                    known.append(f".. unknown until the next ACK: {short(fact.type_url)} [{' '.join(names)}]")
        return [*known, *self.offer()]

    # What the server says.

    def take(self, responses, expected):
        said = [
            (each.type_url, {one.name: (one.version, one.ttl_s) for one in each.resources}, set(each.removed), each.bodiless)
            for each in responses
        ]
        assert said == [(each.type_url, each.content, each.removed, each.bodiless) for each in expected], "the oracle says something else"
        lines = []
        for each in responses:
            self.sent.append(each)
            self.oracle.named(each.type_url, each.nonce)
            lines.append(f"-> #{len(self.sent)} {_written(each)}")
        return lines

    def learnt(self):
        if self.stream is None:
            return []
        lines = []
        if self.stream.errors != self.errors:
            self.errors = self.stream.errors
            lines += [f".. it rejects {short(url)}: {words}" for url, words in self.errors] or [".. it rejects nothing any more"]
        if self.stream.synced_serial != self.synced:
            self.synced = self.stream.synced_serial
            lines.append(f".. in step up to snapshot {self.synced}" if self.synced else ".. in step with nothing yet")
        return lines


def _groups(pattern, line):
    found = pattern.fullmatch(line)
    if found is None:
        raise ValueError(f"{line!r} is not written as it must be; hint: tests/scenarios/runner.py has the forms")
    return found.groupdict()


def _names(listed):
    return tuple((listed or "").split())


def _url(short):
    if short not in URLS:
        raise ValueError(f"{short} is no type; hint: {', '.join(URLS)}")
    return URLS[short]


def _resources(listed):
    return [_groups(RESOURCE, each) for each in _names(listed)]


def _resource(found):
    ttl_s = float(found["ttl_s"]) if found["ttl_s"] else None
    return Resource(name=found["name"], version=found["version"], body=b"", ttl_s=ttl_s)


def _written(response):
    listed = " ".join(f"{each.name}@{each.version}" + (f"/{each.ttl_s:g}s" if each.ttl_s else "") for each in response.resources)
    removed = f" -[{' '.join(response.removed)}]" if response.removed else ""
    return f"{short(response.type_url)} {response.version} [{listed}]{removed}" + (" bodiless" if response.bodiless else "")
