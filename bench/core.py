"""What one push and its ACK cost without a transport: through `AdsStream`, and through the hub's sessions with bytes as they come in.

1,000 streams of one group, one resource each, one push after the other: what a real fleet does between two structural changes. CPU time of
the process, so that what else runs on the machine counts little; median of the pushes.
"""

import gc
import io
import statistics
import time

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire

from bench.fanout_server import configure_logging
from bench.synthetic import NAME, TYPES, world
from xds_server.core.facts import Request, Variant
from xds_server.core.stream import AdsStream
from xds_server.services.ads import AdsHub

STREAMS = 1000
PUSHES = 10
SIZE = 2000
RESPONSES = {Variant.SOTW: wire.DiscoveryResponse, Variant.DELTA: wire.DeltaDiscoveryResponse}


def request(variant, type_url, nonce="", version="", **more):
    """As Envoy says it: names in every state-of-the-world request, in the first one only of delta."""
    if variant is Variant.SOTW:
        made = wire.DiscoveryRequest(type_url=type_url, resource_names=[NAME], response_nonce=nonce, version_info=version, **more)
    else:
        made = wire.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=[] if nonce else [NAME], response_nonce=nonce, **more)
    return made.SerializeToString()


def streams(variant, types):
    """us per push + ACK of the protocol alone."""
    (type_url,) = TYPES[types]
    fleet = [AdsStream(variant) for _ in range(STREAMS)]
    for stream in fleet:
        stream.receive(Request(type_url=type_url, names=(NAME,)))
    took = []
    for version in range(1, PUSHES + 2):
        snapshot, names = world(version, types, SIZE), (NAME,) if variant is Variant.SOTW else ()
        began = time.process_time()
        for stream in fleet:
            (response,) = stream.offer(snapshot)
            stream.receive(Request(type_url=type_url, nonce=response.nonce, names=names))
            stream.offer(snapshot)
        took.append(time.process_time() - began)
    return figure(took[1:])


class Outlet:
    """A way out that ends here."""

    peer = "bench"

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def finish(self, status=0, message=""):
        raise AssertionError(f"the stream was ended: {status} {message}")


def sessions(variant, types):
    """us per push + ACK of protocol, decoding, encoding and the hub."""
    (type_url,) = TYPES[types]
    acked = []
    hub = AdsHub(select=lambda _: "bench", events=acked.append, clock=time.time)
    hub.ready()
    hub.publish("bench", world(1, types, SIZE))
    aggregated = hub.methods()[0 if variant is Variant.SOTW else 1].service
    fleet = []
    for number in range(STREAMS):
        outlet = Outlet()
        session = aggregated(outlet)
        session.received(request(variant, type_url, node=Node(id=f"bench-{number}")))
        fleet.append((outlet, session))
    took = []
    for version in range(2, PUSHES + 3):
        answers = [ack(variant, type_url, outlet.sent.pop()) for outlet, _ in fleet]
        acked.clear()
        began = time.process_time()
        for (_, session), answer in zip(fleet, answers, strict=True):
            session.received(answer)
        hub.publish("bench", world(version, types, SIZE))
        took.append(time.process_time() - began)
        assert len(acked) == STREAMS, f"{len(acked)} of {STREAMS} ACKs were counted"
    return figure(took[1:])


def figure(took):
    """us per stream, of the median push and of the best one (when nothing else ran on the other half of the processor core)."""
    return {"median_us": statistics.median(took) / STREAMS * 1e6, "best_us": min(took) / STREAMS * 1e6}


def ack(variant, type_url, sent):
    response = RESPONSES[variant].FromString(sent)
    version = response.version_info if variant is Variant.SOTW else ""
    return request(variant, type_url, nonce=response.nonce, version=version)


def measure():
    """Prints the table; figures by type and variant, then by way."""
    configure_logging(io.StringIO())
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)  # as the server process has it
    figures = {}
    print(f"{f'core only, {STREAMS} streams: us per push + ACK, median / best':<60}{'stream':>14}{'session':>14}   target 12")
    for types in ("rds", "rtds"):
        for variant in Variant:
            row = figures[f"{types} {variant.value}"] = {"stream": streams(variant, types), "session": sessions(variant, types)}
            shown = "".join(f"{each['median_us']:>7.1f} /{each['best_us']:>5.1f}" for each in row.values())
            print(f"{f'{types} {variant.value}':<60}{shown}", flush=True)
    return figures
