"""HTTP/2 that means harm: frames in every order, mostly valid, into our server and into `h2` (python-hyper) beside it.

What `h2` makes of a frame is compared with what we make of it; whatever we write is written through `h2` as well, which refuses what a server
may not say: frames on closed streams, more than a window holds. Where the two may differ is a table, `MAY_DIFFER`, with the reason; a difference
that is not in it is a finding. The same bytes go into a third connection in pieces of any size, and nothing may change but when.
"""

import struct
from collections import Counter
from contextlib import suppress

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hpack import Decoder

from tests.fuzz.talker import Talker
from tests.wire_pair import Host, Wire, parsed
from xds_server.wire import frames as kinds
from xds_server.wire.errors import Code

PREFACE = kinds.PREFACE
STREAMS = 8
"""Few, so that the limit is met."""
LIMITS = {"streams": STREAMS, "strain": 10**9, "message_bytes": 40_000, "assembling_bytes": 60_000, "outbox": 4, "header_list_bytes": 4096}
MARKS = range(8)
CODES_OF_SERVICES = {Code.NO_ERROR, Code.CANCEL, Code.ENHANCE_YOUR_CALM}
"""What a stream is reset with that broke no rule of HTTP/2: its service ended it, or it did not read."""

FINE, RESET, FATAL = "fine", "reset", "fatal"

ANY = object()
NO_HOST = "Request header block does not have an :authority or Host header."
TOO_WIDE = f"May not increment flow control window past {kinds.MAX_WINDOW}"
MAY_DIFFER = {
    # frame, our verdict and code, theirs and its code or words: why. If both end the connection, either code will do: often two rules are broken.
    ("HEADERS", RESET, 1, FATAL, 1): "a malformed request costs its stream alone (RFC 9113 section 8.1.1); h2 ends the connection",
    ("HEADERS", RESET, 1, FINE, None): "content was promised and none comes (section 8.1.1); h2 does not look at requests without content",
    ("HEADERS", RESET, 7, FATAL, 1): "one stream too many is refused and may be tried again (section 5.1.2); h2 ends the connection",
    ("HEADERS", RESET, 5, FATAL, ANY): "HEADERS on a half-closed stream are a stream error (section 5.1)",
    (
        "HEADERS",
        FATAL,
        11,
        FINE,
        None,
    ): "a list, a block or its pieces over a limit; h2 counts 64 pieces and what is decoded, we count 8 and what is sent as well",
    ("HEADERS", FATAL, 6, FINE, None): "padding that reaches into the priority (section 6.2); h2 takes it",
    ("HEADERS", FATAL, 6, RESET, 5): "the same on a stream that is closed: a frame of the wrong size comes first",
    ("HEADERS", FATAL, 1, FINE, None): "a stream that depends on itself (RFC 7540 section 5.3.1); h2 looks at PRIORITY frames only",
    ("HEADERS", FATAL, 11, RESET, 5): "the same on a stream that is closed",
    ("HEADERS", FATAL, 1, RESET, 5): "a stream that depends on itself, and is closed",
    ("HEADERS", FINE, None, FATAL, "Received frame with invalid padding."): "padding may fill a frame (section 6.2); h2 wants more",
    ("HEADERS", FINE, None, FATAL, NO_HOST): "a gRPC client may leave :authority out, and no service of ours has several hosts",
    ("HEADERS", FINE, None, RESET, 5): "what crossed our RST_STREAM is ignored (section 5.1); h2 resets again",
    ("HEADERS", FINE, None, FATAL, 5): "the same after the peer's END_STREAM, which h2 remembers of a stream that we reset",
    ("DATA", FINE, None, RESET, 5): "what crossed our RST_STREAM is ignored (section 5.1); h2 resets again",
    ("DATA", FATAL, 5, RESET, 5): "after END_STREAM of both sides it is a connection error (section 5.1)",
    ("DATA", RESET, 5, FATAL, ANY): "DATA on a half-closed stream are a stream error (section 5.1)",
    ("DATA", RESET, 1, FATAL, 1): "content that is not as long as promised costs its stream (section 8.1.1)",
    ("SETTINGS", FINE, None, FATAL, TOO_WIDE): "h2 widens the windows of streams that are closed as well (section 6.9.2 means active ones)",
    ("WINDOW_UPDATE", RESET, 1, FATAL, 1): "a window of a stream that opens by 0 is a stream error (section 6.9)",
    ("RST_STREAM", FATAL, 1, FINE, None): "RST_STREAM on an idle stream (section 6.4)",
    (
        "WINDOW_UPDATE",
        FINE,
        None,
        FATAL,
        "Received frame with non-compliant data",
    ): "a window of a closed stream does not matter (section 5.1)",
    ("PUSH_PROMISE", FATAL, 1, FINE, None): "a client pushes nothing (section 8.4), on no stream",
    ("PUSH_PROMISE", FATAL, 1, RESET, ANY): "the same",
    ("extension", FINE, None, FATAL, ANY): "ALTSVC means nothing to a server (RFC 7838 section 4); h2 reads it",
    ("PRIORITY", RESET, 6, FATAL, 6): "PRIORITY of another length is a stream error (section 6.3)",
    (
        "SETTINGS",
        FINE,
        None,
        FATAL,
        "Setting 8",
    ): "CONNECT for WebSocket (RFC 8441) is nothing we know, and unknown settings are ignored (section 6.5.2)",
    ("SETTINGS", FATAL, 3, FINE, None): "a wrong value counts if a right one follows as well (section 6.5.3)",
    ("SETTINGS", FATAL, 1, FINE, None): "the same",
}


class Session:
    """What a message makes a service do is in its first byte, so that every kind of end occurs."""

    def __call__(self, call, message):
        match message[:1]:
            case b"e":
                call.finish()
            case b"f":
                call.send(message)
                call.finish(5, "no")
            case b"b":
                call.send(bytes(30_000))
            case b"x":
                raise ValueError("a fault of a service")
            case b"q":
                pass
            case _:
                call.send(message)


def server():
    """Our side."""
    return Wire(Host(Session()), **LIMITS)


class Twin:
    """The server of `h2`, which hears what ours hears and says what ours says."""

    def __init__(self, limits):
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)
        )
        codes = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: limits.streams,
                codes.INITIAL_WINDOW_SIZE: limits.window_bytes,
                codes.MAX_HEADER_LIST_SIZE: limits.header_list_bytes,
            },
        )
        self.h2.max_inbound_frame_size = kinds.MAX_FRAME
        self.h2.decoder.max_header_list_size = limits.header_list_bytes
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(limits.connection_window_bytes - kinds.FIRST_WINDOW)
        self.decoder = Decoder()
        self.pings = []
        self.words = ""
        self.is_left = False
        self.h2.clear_outbound_data_buffer()

    def hear(self, data):
        """A verdict, its code. The reserved bit of a window update is to be ignored (section 6.9), which h2 does not."""
        if data[3] == kinds.WINDOW_UPDATE and len(data) > kinds.HEAD_BYTES:
            data = data[:9] + bytes((data[9] & 0x7F,)) + data[10:]
        try:
            events = self.h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self.words = str(error).partition(" has invalid value")[0]
            return FATAL, error.error_code
        self.is_left = any(isinstance(event, h2.events.ConnectionTerminated) for event in events)
        said = parsed(self.h2.data_to_send())
        self.pings = [payload for kind, flags, _, payload in said if kind == kinds.PING and flags & kinds.ACK]
        resets = [struct.unpack(">I", payload)[0] for kind, _, _, payload in said if kind == kinds.RST_STREAM]
        return (RESET, resets[-1]) if resets else (FINE, None)

    def say(self, said):
        """Frames of ours, as far as h2 does not say them by itself. Raises what h2 has against them."""
        for kind, flags, stream, payload in said:
            match kind:
                case kinds.HEADERS:
                    fields = self.decoder.decode(payload, raw=True)
                    self.h2.send_headers(stream, fields, end_stream=bool(flags & kinds.END_STREAM))
                case kinds.DATA:
                    self.h2.send_data(stream, payload, end_stream=bool(flags & kinds.END_STREAM))
                case kinds.RST_STREAM:
                    with suppress(h2.exceptions.StreamClosedError):  # it has said so itself, to a stream that was closed before
                        self.h2.reset_stream(stream, struct.unpack(">I", payload)[0])
                case kinds.WINDOW_UPDATE:
                    self.h2.increment_flow_control_window(struct.unpack(">I", payload)[0], stream or None)
                case _:
                    pass
        self.h2.clear_outbound_data_buffer()


def verdict(wire, said, stream):
    """Ours, from what we wrote."""
    for kind, _, _, payload in said:
        if kind == kinds.GOAWAY:
            return FATAL, Code(struct.unpack_from(">I", payload, 4)[0])
    assert not wire.connection.over, "over without a word"
    codes = [Code(struct.unpack(">I", payload)[0]) for kind, _, number, payload in said if kind == kinds.RST_STREAM and number == stream]
    codes = [code for code in codes if code not in CODES_OF_SERVICES]
    return (RESET, codes[-1]) if codes else (FINE, None)


def compare(sent, *, hear=lambda wire, said: None, tally=None):
    """One conversation, frame by frame, into ours and h2's. Raises what is found.

    Args:
        sent: Frames after the preface.
        hear: Told our side, and what it says, before the next frame is made.
        tally: Counts what came to what end.
    """
    wire = server()
    twin = Twin(wire.server.limits)
    twin.hear(PREFACE)
    wire.give(PREFACE)
    tally = Counter() if tally is None else tally
    tally["begun"] = 0
    for one in sent:
        kind, flags, stream, payload = parsed(one)[0]
        name = kinds.NAMES[kind] if kind < len(kinds.NAMES) else "extension"
        said = parsed(wire.give(one))
        hear(wire, said)
        if not tally["begun"] and (kind != kinds.SETTINGS or flags & kinds.ACK):
            assert verdict(wire, said, 0)[0] == FATAL, "the first frame is SETTINGS (section 3.4), which h2 does not ask for"
            break
        tally["begun"] = 1
        assert all(call.window <= kinds.MAX_WINDOW for call in wire.connection.calls), "a window over 2^31-1 (section 6.9.1)"
        ours, theirs = verdict(wire, said, stream & kinds.MAX_WINDOW), twin.hear(one)
        tally[name, ours[0]] += 1
        assert is_excused(name, ours, theirs, twin.words, tally), (
            f"{name} on {stream}: {ours} here, {theirs} there ({twin.words}): {payload.hex()[:80]}"
        )
        if FATAL in {ours[0], theirs[0]} or twin.is_left:
            break
        assert twin.pings == [payload for kind, flags, _, payload in said if kind == kinds.PING and flags & kinds.ACK]
        twin.say(said)
    quiet(wire)


def is_excused(name, ours, theirs, words, tally):
    """Whether two verdicts are the same, or may differ as they do."""
    if ours == theirs or ours[0] == theirs[0] == FATAL:
        return True
    name = "HEADERS" if name == "CONTINUATION" else name
    for code in (theirs[1], ANY, words):
        if why := MAY_DIFFER.get((name, *ours, theirs[0], code)):
            tally[why] += 1
            return True
    return False


def quiet(wire):
    """The end of any conversation leaves nothing behind."""
    wire.connection.lost()
    assert all(receiver.closed_count == 1 for receiver in wire.host.receivers)
    assert all(isinstance(error, ValueError) for _, error in wire.host.faults), wire.host.faults
    assert wire.server.assembling == 0
    assert not wire.connection.calls


def behaviour(wire, written):
    return (
        parsed(written),
        wire.connection.over,
        wire.refused,
        [(receiver.call.id, receiver.messages, receiver.closed_count) for receiver in wire.host.receivers],
    )


def cut(data, chance):
    """In pieces of any size: nothing changes but when.

    Returns: Whether that could be seen: what waits for a window goes out at the end of a turn, and turns are where the cuts are.
    """
    whole, pieces = server(), server()
    waited, at_once = _read(whole, data)
    bit_by_bit, start = b"", 0
    largest = chance.choice((1, 3, 10, 100, 5000, 40_000))
    while start < len(data):
        size = chance.randint(1, largest)
        waits, written = _read(pieces, data[start : start + size])
        waited, bit_by_bit = waited or waits, bit_by_bit + written
        start += size
    assert waited or behaviour(whole, at_once) == behaviour(pieces, bit_by_bit)
    quiet(whole)
    quiet(pieces)
    return not waited


def _read(wire, data):
    """Whether something had to wait for a window; what was written."""
    waits, written, more = False, b"", wire.connection.receive(data)
    while True:
        waits = waits or bool(wire.connection._waiting)
        if more:
            written += wire.taken()
        if not wire.connection.is_unfinished:
            return waits, written
        more = wire.connection.receive(b"")


def frames_of(data):
    """Bytes as frames, the last one perhaps cut short."""
    found = []
    while len(data) >= kinds.HEAD_BYTES and len(data) >= (size := kinds.HEAD_BYTES + int.from_bytes(data[:3], "big")):
        found.append(data[:size])
        data = data[size:]
    return found


def converse(chance, tally=None):
    """One random conversation."""
    talker, sent = Talker(chance), []

    def frames():
        for one in talker.frames(chance.choice((5, 20, 60, 200))):
            sent.append(one)
            yield one

    try:
        compare(frames(), hear=talker.hear, tally=tally)
        could_see = cut(PREFACE + b"".join(sent), chance)
        if tally is not None:
            tally["cut", could_see] += 1
    except Exception as error:
        error.add_note(f"{len(sent)} frames: {' '.join(one.hex() for one in sent)[-4000:]}")
        raise
