"""A client that speaks HTTP/2 and is mostly right, for `tests.fuzz.wire`: frames in every order, some of them spoilt."""

import struct

from hpack import Encoder

from tests.wire_pair import HEADERS, frame, prefixed
from xds_server.wire import frames as kinds


class Talker:
    """A client that is mostly right. Args: chance: Where all of it comes from."""

    def __init__(self, chance):
        self.chance = chance
        self.encoder = Encoder()
        self.next = 1
        self.open = []

    def frames(self, count):
        """The frames of a conversation, the first one SETTINGS."""
        yield self.settings()
        made = 0
        while made < count:
            for one in self.step():
                made += 1
                yield self.spoilt(one) if self.chance.random() < 0.01 else one

    def step(self):
        chance = self.chance
        if not self.open and chance.random() < 0.95:
            return self.opening()
        makers = (self.opening, self.data, self.reset, self.update, self.settings, self.ping, self.priority, self.trailers, self.odd)
        return self._listed(chance.choices(makers, (6, 12, 1, 4, 1, 1, 0.5, 0.7, 0.2))[0]())

    def _listed(self, made):
        return [made] if isinstance(made, bytes) else made

    def stream(self):
        """Mostly one that is open."""
        chance = self.chance
        if chance.random() < 0.01:
            return chance.choice((0, 2, self.next, self.next + 2, self.next + 1, 2**31 - 1))
        if self.open and chance.random() < 0.99:
            return chance.choice(self.open)
        return 2 * chance.randrange(max(1, (self.next - 1) // 2)) + 1

    def hear(self, wire, said):
        """What the server says: a client knows which streams are over. Now and then it does not read for a while."""
        if self.chance.random() < 0.1:
            self.chance.choice((wire.connection.pause, wire.connection.resume, wire.connection.resume))()
        for kind, flags, number, _ in said:
            if kind == kinds.RST_STREAM or (kind in {kinds.DATA, kinds.HEADERS} and flags & kinds.END_STREAM):
                self.leave(number)

    def leave(self, number):
        if number in self.open and self.chance.random() < 0.95:
            self.open.remove(number)

    def opening(self):
        """HEADERS of a request, often in one piece."""
        chance = self.chance
        number = self.next if chance.random() < 0.98 else self.next + 2 * chance.randrange(4)
        self.next = number + 2
        ends = chance.random() < 0.2
        if not ends:
            self.open.append(number)
        return self.headers(number, self.request(), ends=ends)

    def request(self):
        chance = self.chance
        fields = [*HEADERS, *chance.choices(EXTRAS, k=chance.choice((0, 0, 0, 1)))]
        if chance.random() < 0.02:
            fields = chance.choice(SPOILT)(fields, chance)
        return fields

    def headers(self, number, fields, *, ends):
        chance = self.chance
        block = self.encoder.encode(fields, huffman=chance.random() < 0.5)
        if chance.random() < 0.005:
            block = chance.choice((block[:-1], block + b"\x80", b"\x3f\xe1\xff\x03" + block, chance.randbytes(20)))
        flags = kinds.END_STREAM if ends else 0
        pieces = [block]
        if chance.random() < 0.15:
            at = sorted(chance.randrange(len(block) + 1) for _ in range(chance.choice((1, 1, 1, 2, 2, 9))))
            pieces = [block[start:stop] for start, stop in zip([0, *at], [*at, len(block)], strict=True)]
        first = pieces[0]
        if chance.random() < 0.1:
            first = struct.pack(">IB", chance.choice((0, 1, number, 2**31 + 7)), chance.randrange(256)) + first
            flags |= kinds.HAS_PRIORITY
        first, flags = self.padded(first, flags)
        made = [frame(kinds.HEADERS, flags | (0 if pieces[1:] else kinds.END_HEADERS), number, first)]
        for place, piece in enumerate(pieces[1:], 2):
            made.append(frame(kinds.CONTINUATION, kinds.END_HEADERS if place == len(pieces) else 0, number, piece))
        return made

    def padded(self, payload, flags):
        chance = self.chance
        if chance.random() < 0.1:
            size = chance.choice((0, 1, 9, 255))
            return bytes((size if chance.random() < 0.95 else 255,)) + payload + bytes(size), flags | kinds.PADDED
        return payload, flags

    def data(self):
        chance = self.chance
        body = chance.choice((b"", b"hello", b"e", b"f", b"x", b"q", b"b", b"b", b"hello" * 200, b"h" * 20_000))
        content = prefixed(*([body] * chance.choice((0, 1, 1, 1, 3))))[: 3 * kinds.MAX_FRAME]
        roll = chance.random()
        if roll < 0.1:
            content = content[: chance.randrange(len(content) + 1)]
        elif roll < 0.13:
            content = struct.pack(">BI", chance.choice((0, 1)), chance.choice((0, 7, 40_001, 2**32 - 1))) + content
        number = self.stream()
        pieces = [content[at : at + 16_000] for at in range(0, len(content), 16_000)] or [b""]
        made = []
        for place, piece in enumerate(pieces, 1):
            flags = kinds.END_STREAM if place == len(pieces) and chance.random() < 0.25 else 0
            if flags:
                self.leave(number)
            payload, flags = self.padded(piece, flags)
            made.append(frame(kinds.DATA, flags, number, payload))
        return made

    def reset(self):
        number = self.stream()
        self.leave(number)
        return frame(kinds.RST_STREAM, 0, number, struct.pack(">I", self.chance.randrange(15)))

    def update(self):
        chance = self.chance
        number = 0 if chance.random() < 0.4 else self.stream()
        step = 0 if chance.random() < 0.02 else chance.choice((1, 7, 1000, 65_535, 65_535, 2**20))
        return frame(kinds.WINDOW_UPDATE, 0, number, struct.pack(">I", step if chance.random() < 0.99 else 2**31 - 1))

    def settings(self):
        chance = self.chance
        if chance.random() < 0.2 and self.next > 1:
            return frame(kinds.SETTINGS, kinds.ACK, 0, b"")
        pairs = []
        for _ in range(chance.choice((0, 1, 1, 2))):
            code = chance.choice((1, 3, 4, 4, 4, 5, 6, 7, 99))
            value = chance.choice(
                {
                    1: (0, 100, 4096, 8192),
                    4: (1000, 65_535, 65_535, 2**20, 2**20) if chance.random() < 0.8 else (0, 1, 30),
                    5: (16_384, 2**24 - 1),
                }.get(code, (0, 1, 100))
            )
            pairs.append((code, value if chance.random() < 0.98 else chance.choice((0, 2, 2**31, 2**32 - 1))))
        return frame(kinds.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))

    def ping(self):
        return frame(kinds.PING, self.chance.choice((0, 0, 1)), 0, self.chance.randbytes(8))

    def priority(self):
        return frame(kinds.PRIORITY, 0, self.stream() or 1, struct.pack(">IB", self.chance.choice((0, 2**31, 3)), 9))

    def trailers(self):
        chance = self.chance
        fields = chance.choice(([("x-end", "1")], [("x-end", "1")], [(":path", "/")], [("X-Bad", "1")]))
        number = self.stream() or 1
        self.leave(number)
        return self.headers(number, fields, ends=chance.random() < 0.9)

    def odd(self):
        """What a client does not send, or not so."""
        chance = self.chance
        number = self.stream()
        return chance.choice(
            (
                frame(kinds.GOAWAY, 0, 0, struct.pack(">II", number, 0) + b"bye"),
                frame(kinds.PUSH_PROMISE, 4, number, struct.pack(">I", 2) + b"\x82"),
                frame(kinds.CONTINUATION, 4, number, b"\x82"),
                frame(chance.randrange(10, 256), chance.randrange(256), number, chance.randbytes(12)),
                frame(kinds.PING, 0, 0, bytes(7)),
                frame(kinds.SETTINGS, 0, 0, bytes(5)),
                frame(kinds.SETTINGS, kinds.ACK, 0, bytes(6)),
                frame(kinds.PRIORITY, 0, number, bytes(4)),
                frame(kinds.RST_STREAM, 0, number, bytes(3)),
                frame(kinds.WINDOW_UPDATE, 0, number, bytes(5)),
                frame(kinds.DATA, 0, number, bytes(16_385)),
                frame(kinds.DATA, kinds.PADDED, number, b""),
            )
        )

    def spoilt(self, one):
        """One of its bytes is another; the length stays, so that the next frame begins where it should."""
        chance = self.chance
        at = chance.randrange(3, len(one))
        return one[:at] + bytes((chance.choice((one[at] ^ 1 << chance.randrange(8), 0, 255)),)) + one[at + 1 :]


def _without(name):
    return lambda fields, _: [field for field in fields if field[0] != name]


EXTRAS = (
    ("user-agent", "fuzz/1"),
    ("grpc-timeout", "1H"),
    ("grpc-encoding", "gzip"),
    ("content-length", "10"),
    ("x-long", "v" * 300),
    ("x-new", "a"),
    ("cookie", "a=b"),
    ("authorization", "secret"),
)
SPOILT = (
    _without(":path"),
    _without(":method"),
    _without(":scheme"),
    lambda fields, _: [*fields, (":path", "/again")],
    lambda fields, _: [*fields, ("X-Upper", "a")],
    lambda fields, _: [*fields, ("connection", "close")],
    lambda fields, _: [*fields, ("te", "gzip")],
    lambda fields, _: [*fields, ("", "nameless")],
    lambda fields, _: [*fields, ("x-line", "a\nb")],
    lambda fields, _: [*fields, (":unknown", "a")],
    lambda fields, _: [*fields, ("x-huge", "h" * 5000)],
    lambda fields, _: [(":method", "GET"), *fields[1:]],
    lambda fields, chance: chance.sample(fields, len(fields)),
)
