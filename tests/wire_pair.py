"""A wire connection and an independent peer (`h2`) that talk in memory; no sockets, no loop, the time is a number."""

import struct

import h2.config
import h2.connection
import h2.events

from bench.fleet import frame, greeting, message
from xds_server.wire import Connection, Limits, Server

PATH = "/t.T/M"
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "test"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
__all__ = ["HEADERS", "PATH", "Host", "Peer", "Receiver", "Wire", "frame", "greeting", "message", "parsed", "prefixed"]


def prefixed(*bodies):
    """Messages as gRPC marks them."""
    return b"".join(struct.pack(">BI", 0, len(body)) + body for body in bodies)


class Receiver:
    """A session that remembers, and does with a message what its host was told to do."""

    def __init__(self, host, call):
        self.host, self.call, self.messages, self.closed_count = host, call, [], 0

    def received(self, message):
        assert not self.closed_count, "nothing comes after the end"
        self.messages.append(message)
        self.host.on_message(self.call, message)

    def closed(self):
        self.closed_count += 1


class Host:
    """Opens a `Receiver` for each call; knows faults of services."""

    def __init__(self, on_message=lambda call, message: None, *, unary=False):
        self.receivers, self.faults, self.on_message, self.unary = [], [], on_message, unary

    def opened(self, call):
        call.is_unary = self.unary
        self.receivers.append(Receiver(self, call))
        return self.receivers[-1]

    def failed(self, call, error):
        self.faults.append((call, error))

    @property
    def messages(self):
        return [message for receiver in self.receivers for message in receiver.messages]


class Wire:
    """Our side, and what it wrote."""

    def __init__(self, host=None, *, server=None, now=0.0, **limits):
        self.host = host or Host()
        self.server = server or Server(self.host, Limits(**limits))
        self.due = 0
        self.connection = Connection(self.server, self._due, now=now, peer="test")

    def _due(self):
        self.due += 1

    def give(self, data):
        """Bytes of the peer; returns what is written in answer."""
        written = b""
        if self.connection.receive(data):
            written = self.taken()
        while self.connection.is_unfinished:
            if self.connection.receive(b""):
                written += self.taken()
        return written

    def taken(self):
        """What is to be written now, as often as the connection asks for it."""
        written = b""
        while True:
            self.due = 0
            written += b"".join(self.connection.take())
            if not self.due:
                return written

    def frames(self, data):
        """What is written in answer to some bytes: (type, flags, stream, payload) of each frame."""
        return parsed(self.give(data))

    @property
    def refused(self):
        return dict(self.server.counters.refused)


def parsed(data):
    found = []
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        data = data[9 + length :]
    return found


class Peer:
    """The other side, by the h2 library: opens calls, sends messages, and reads what comes."""

    def __init__(self, wire, **settings):
        self.wire = wire
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings({h2.settings.SettingCodes[name]: value for name, value in settings.items()})
        self.data, self.fields, self.resets, self.ended, self.goaway = {}, {}, {}, set(), None
        self.reads = True
        self.talk()

    def talk(self):
        """Passes bytes both ways until both are silent."""
        self._read(self.wire.taken())
        while data := self.h2.data_to_send():
            self._read(self.wire.give(data))

    def _read(self, data):
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self.fields.setdefault(event.stream_id, {}).update(event.headers)
                case h2.events.DataReceived():
                    self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
                    if self.reads and event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.ended.add(event.stream_id)
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = event.error_code
                case h2.events.ConnectionTerminated():
                    self.goaway = event.error_code
                case _:
                    pass

    def open(self, *, fields=(), headers=HEADERS, end=False):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, [*headers, *fields], end_stream=end)
        self.talk()
        return stream

    def send(self, stream, data, *, end=False):
        """Sends bytes as fast as windows allow."""
        while len(data) > (room := min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)):
            assert room > 0, "the window does not open again"
            self.h2.send_data(stream, data[:room])
            data = data[room:]
            self.talk()
        self.h2.send_data(stream, data, end_stream=end)
        self.talk()

    def messages(self, stream):
        """The whole messages that came."""
        data, found = self.data.get(stream, b""), []
        while data:
            size = int.from_bytes(data[1:5], "big")
            assert len(data) >= 5 + size, "half a message"
            found.append(data[5 : 5 + size])
            data = data[5 + size :]
        return found

    def status(self, stream):
        return int(self.fields[stream]["grpc-status"])
