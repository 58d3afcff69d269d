"""Envoy's messages as text for people: what `render` and `bootstrap` print."""

import base64
import json
from collections.abc import Sequence
from typing import Any, Final

from google.protobuf import descriptor_pool, json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct

from policies.spec.policy import ProxiesPolicy
from policies.traffic import Traffic
from xds_server.cli.write import part, text
from xds_server.config import Address
from xds_server.core.types import short
from xds_server.resources.envoy import render
from xds_server.services.control import Json, JsonObject

STRUCT: Final = "type.googleapis.com/google.protobuf.Struct"


def world(group: ProxiesPolicy, wishes: Sequence[Traffic], *, leased: bool) -> JsonObject:
    """All resources of a group: type -> name -> the message as protobuf JSON."""
    found = render(group, wishes, leased=leased)
    return {
        short(type_url): {name: _body(type_url, resource.body) for name, resource in sorted(resources.items())}
        for type_url, resources in found.items()
    }


def _body(type_url: str, body: bytes) -> Json:
    message = _class(type_url)()
    message.ParseFromString(body)
    readable(message)
    plain: Json = json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))
    return plain


def _class(type_url: str) -> Any:
    return GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(type_url.rsplit("/", 1)[-1]))


def readable(message: Message) -> None:
    """Puts a note in the place of every `Any` whose type has no Python class here (newer Envoy extensions), at any depth."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            inner = value.values() if field.message_type.fields_by_name["value"].message_type is not None else ()
        else:
            inner = value if field.is_repeated else (value,)
        for each in inner:
            if isinstance(each, AnyMessage):
                _readable_any(each)
            else:
                readable(each)


def _readable_any(packed: AnyMessage) -> None:
    try:
        inside = _class(packed.type_url)()
    except KeyError:
        note = Struct()
        note.update({"of_type": packed.type_url, "base64": base64.b64encode(packed.value).decode()})
        packed.CopyFrom(AnyMessage(type_url=STRUCT, value=note.SerializeToString(deterministic=True)))
        return
    inside.ParseFromString(packed.value)
    readable(inside)
    packed.value = inside.SerializeToString(deterministic=True)


def bootstrap_document(select: JsonObject, *, name: str, node_id: str | None, xds: Address, admin_port: int) -> JsonObject:
    """An Envoy bootstrap for a proxy that the group's selector selects."""
    from xds_server.resources.bootstrap import bootstrap  # noqa: PLC0415 - slow to import

    metadata: JsonObject = {}
    for path, value in part(select, "metadata").items():
        _put(metadata, path.split("."), value)
    made: JsonObject = bootstrap(
        node_id=node_id or text(select.get("node_id"), f"{name}-1").replace("*", "1").replace("?", "1"),
        cluster=text(select.get("cluster"), name),
        xds_host=xds.host,
        xds_port=xds.port,
        admin_port=admin_port,
        metadata=metadata,
    )
    return made


def _put(place: JsonObject, path: list[str], value: Json) -> None:
    """Sets a value at a dotted path."""
    for key in path[:-1]:
        inner = place.get(key)
        if not isinstance(inner, dict):
            inner = place[key] = {}
        place = inner
    place[path[-1]] = value
