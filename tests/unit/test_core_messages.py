"""Discovery messages on the wire: what is read of a request, what is written of a response."""

from contextlib import suppress

import pytest
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3 import discovery_pb2 as wire
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from tests.xds_peer import res
from xds_server.core.facts import Response, Variant
from xds_server.core.types import CDS, RTDS
from xds_server.errors import PeerError
from xds_server.resources.bootstrap import bootstrap
from xds_server.services.messages import MAX_WORDS, decode, encode, node_info, without_field


def test_a_delta_request_keeps_all_its_lists():
    message = wire.DeltaDiscoveryRequest(
        type_url=CDS,
        resource_names_subscribe=["a"],
        resource_names_unsubscribe=["b"],
        initial_resource_versions={"c": "1"},
        response_nonce="n",
    )
    request, node = decode(message.SerializeToString(), Variant.DELTA, implied_type=None, node_known=True)
    assert (request.names, request.unsubscribe, request.initial_versions, request.nonce) == (("a",), ("b",), {"c": "1"}, "n")
    assert request.error is None
    assert node is None


@pytest.mark.rule("D8")
def test_what_the_protocol_hides_as_not_implemented_is_not_read():
    plain = wire.DeltaDiscoveryRequest(type_url=CDS, resource_names_subscribe=["a"], response_nonce="n")
    more = wire.DeltaDiscoveryRequest(resource_locators_subscribe=[{"name": "b"}], resource_locators_unsubscribe=[{"name": "a"}])
    more.MergeFrom(plain)
    read = [decode(each.SerializeToString(), Variant.DELTA, implied_type=None, node_known=True)[0] for each in (plain, more)]
    assert read[0] == read[1]


@pytest.mark.rule("P2")
def test_our_bootstrap_lets_envoy_send_its_node_in_the_first_request_only():
    config = bootstrap(node_id="n", cluster="c", xds_host="127.0.0.1", xds_port=1, admin_port=2)
    assert config["dynamic_resources"]["ads_config"]["set_node_on_first_message_only"] is True


@pytest.mark.rule("P5")
def test_error_detail_is_a_rejection_even_without_words_and_long_words_are_cut():
    message = wire.DiscoveryRequest(type_url=CDS)
    message.error_detail.SetInParent()
    assert decode(message.SerializeToString(), Variant.SOTW, implied_type=None, node_known=True)[0].error == ""
    message.error_detail.message = "x" * 10_000
    assert len(decode(message.SerializeToString(), Variant.SOTW, implied_type=None, node_known=True)[0].error) == MAX_WORDS


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_metadata_that_no_json_can_hold_is_refused_in_words(number):
    node = Node(id="n")
    node.metadata["zone"] = number
    with pytest.raises(PeerError, match="metadata cannot be read"):
        decode(wire.DiscoveryRequest(type_url=CDS, node=node).SerializeToString(), Variant.SOTW, implied_type=None, node_known=False)


def test_of_large_metadata_only_our_own_key_is_kept():
    node = Node(id="n")
    node.metadata["crossfade"] = {"layers": 16}
    node.metadata["noise"] = "x" * 100_000
    assert node_info(node).metadata == {"crossfade": {"layers": 16}}
    node.metadata["crossfade"] = {"layers": "y" * 100_000}
    assert node_info(node).metadata == {}


def test_a_version_is_read_from_envoys_build_or_from_what_the_client_calls_itself():
    assert node_info(Node(id="n", user_agent_name="gRPC C-core", user_agent_version="1.85")).version == "gRPC C-core 1.85"


@pytest.mark.parametrize("variant", list(Variant))
@given(message=st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_clear_error(variant, message):
    padded = message + bytes([0x1A, 0x80, 0x40]) + bytes(8192)
    for raw in (message, padded):
        with suppress(PeerError):
            decode(raw, variant, implied_type=CDS, node_known=True)


@example(names=["x" * 5000])
@given(names=st.lists(st.text(max_size=20)))
def test_a_field_is_cut_out_and_the_rest_stays_the_same(names):
    rest = wire.DiscoveryRequest(type_url=CDS, resource_names=names, response_nonce="n")
    whole = wire.DiscoveryRequest(node=Node(id="n" * 300))
    whole.MergeFrom(rest)
    assert wire.DiscoveryRequest.FromString(without_field(whole.SerializeToString(), 2)) == rest


def test_what_follows_the_cut_out_field_is_not_looked_at():
    field = b"\x12\x03abc"
    assert without_field(b"\x0a\x01v" + field + b"\xff\xff", 2) == b"\x0a\x01v\xff\xff"
    assert without_field(b"\x0a\x01v", 2) == b"\x0a\x01v"


@pytest.mark.parametrize("variant", Variant)
def test_an_answer_that_all_proxies_give_is_parsed_once_whatever_node_they_put_into_it(variant):
    kind = wire.DiscoveryRequest if variant is Variant.SOTW else wire.DeltaDiscoveryRequest

    def decoded(nonce, **more):
        message = kind(type_url=CDS, response_nonce=nonce, **more).SerializeToString()
        return decode(message, variant, implied_type=None, node_known=True)[0]

    first = decoded("n")
    assert decoded("n") is first
    assert decoded("n", node=Node(id="x" * 10_000)) is first
    assert decoded("m") != first


def test_an_answer_that_is_long_without_its_node_is_read_too():
    names = [f"a/resource/of/some/length/{number}" for number in range(200)]
    message = wire.DiscoveryRequest(type_url=CDS, resource_names=names, node=Node(id="x")).SerializeToString()
    assert decode(message, Variant.SOTW, implied_type=None, node_known=True)[0].names == tuple(names)


def test_equal_answers_on_services_of_two_types_are_not_taken_for_each_other():
    message = wire.DiscoveryRequest(response_nonce="n").SerializeToString()
    for url in (CDS, RTDS):
        assert decode(message, Variant.SOTW, implied_type=url, node_known=True)[0].type_url == url


@pytest.mark.parametrize("cut", [b"\x0a", b"\x0a\x05abc", b"\x08", b"\x0b", b"\xff" * 12, b"\x09abc", b"\x0dab"])
def test_a_message_that_is_cut_off_or_nonsense_is_refused(cut):
    with pytest.raises((ValueError, IndexError)):
        without_field(cut, 2)


@pytest.mark.rule("S6")
def test_a_leased_resource_in_the_state_of_the_world_is_wrapped_and_others_are_not():
    response = Response(type_url=RTDS, nonce="n", version="v", resources=(res("lease", ttl_s=1.5), res("free")))
    leased, free = wire.DiscoveryResponse.FromString(encode(response, Variant.SOTW)).resources
    wrapped = wire.Resource()
    assert leased.Unpack(wrapped)
    assert (wrapped.name, wrapped.ttl.ToMilliseconds(), wrapped.resource.value) == ("lease", 1500, b"lease@1")
    assert (free.type_url, free.value) == (RTDS, b"free@1")


@pytest.mark.rule("D6")
def test_a_delta_response_carries_versions_removals_and_a_bodiless_heartbeat():
    response = Response(type_url=RTDS, nonce="n", version="v", resources=(res("lease", ttl_s=1.5),), removed=("gone",), bodiless=True)
    read = wire.DeltaDiscoveryResponse.FromString(encode(response, Variant.DELTA))
    assert (read.nonce, read.type_url, list(read.removed_resources), read.system_version_info) == ("n", RTDS, ["gone"], "v")
    [beat] = read.resources
    assert (beat.name, beat.version, beat.ttl.ToMilliseconds(), beat.HasField("resource")) == ("lease", "1", 1500, False)


def test_garbage_is_really_refused_by_protobuf_first():
    with pytest.raises(DecodeError):
        wire.DiscoveryRequest.FromString(b"\xff\xff garbage")
