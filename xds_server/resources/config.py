"""The filters that make requests a variant's own: its headers, its path, its model's name in the body.

They sit in the clusters, behind the choice of the variant, so that copies get them too and nobody else does. A composite cluster applies only
its own filters, whichever part answers, hence each pod says in its metadata whose it is, and a second attempt begins with what the first one
changed put back: Envoy keeps one set of headers for all attempts.

Neighbours: `clusters` puts them in; `docs/envoy.md` has what they cost. Source: Envoy 1.40 `lua_filter.rst`, `header_mutation.proto`; that the
headers are shared and the parts' filters passed over was found by running it (`tests/e2e/test_variant_config.py`).
"""

import json
from collections.abc import Iterable, Iterator, Sequence

from envoy.config.core.v3 import base_pb2
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.upstream_codec.v3 import upstream_codec_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from google.protobuf.wrappers_pb2 import UInt64Value

from policies.spec.policy import Config, Variant
from policies.traffic import Traffic
from xds_server.resources.encoding import pack

BODY_BYTES = 16 * 1024 * 1024
"""The longest body that is looked into for a model's name; a longer one is answered 413."""

METADATA = "crossfade"
"""Namespace of what pods say of themselves and of what the filters remember between two attempts."""

VARIANT_HEADER = "x-crossfade-variant"
"""Whose pod was picked, from one filter to the next; pods never see it."""

SCRIPT = r"""
local QUOTE, BACKSLASH, BRACE, BRACKET = 34, 92, 123, 91

-- Behind the closing quote of the string whose content begins at `first`; nil if it never ends. Looks at quotes only: most text has few.
local function after_string(text, first)
  local at = first
  while true do
    at = text:find('"', at, true)
    if not at then return nil end
    local before = at - 1
    while before >= first and text:byte(before) == BACKSLASH do before = before - 1 end
    at = at + 1
    if (at - before) % 2 == 0 then return at end
  end
end

-- Behind the JSON value that begins at `at`.
local function after_value(text, at)
  local first = text:byte(at)
  if first == QUOTE then return after_string(text, at + 1) end
  if first ~= BRACE and first ~= BRACKET then return text:match('^[^%s,}%]]+()', at) end
  local depth = 0
  repeat
    at = text:find('["%[%]{}]', at)
    if not at then return nil end
    local byte = text:byte(at)
    if byte == QUOTE then
      at = after_string(text, at + 1)
      if not at then return nil end
    else
      depth = depth + ((byte == BRACE or byte == BRACKET) and 1 or -1)
      at = at + 1
    end
  until depth == 0
  return at
end

-- The JSON object with another value for its own `model`; nil if it is no object or has none.
local function with_model(text, model)
  local pieces, kept, at = {}, 1, text:match('^%s*{()')
  while at do
    local key = text:match('^%s*"()', at)
    local key_end = key and after_string(text, key)
    local value = key_end and text:match('^%s*:%s*()', key_end)
    local value_end = value and after_value(text, value)
    if not value_end then return nil end
    if key_end - key == 6 and text:sub(key, key_end - 2) == 'model' then
      pieces[#pieces + 1] = text:sub(kept, value - 1) .. model
      kept = value_end
    end
    at = text:match('^%s*,()', value_end)
    if not at and (kept == 1 or not text:find('^%s*}%s*$', value_end)) then return nil end
  end
  return kept > 1 and table.concat(pieces) .. text:sub(kept) or nil
end

local function put(headers, name, value)
  if value then headers:replace(name, value) else headers:remove(name) end
end

-- Puts back what an earlier attempt changed, or remembers what this one may change.
local function begin(handle, headers)
  local memory = handle:streamInfo():dynamicMetadata()
  local before = memory:get(METADATA)
  if before then
    for _, name in ipairs(TOUCHED) do put(headers, name, before[name]) end
  else
    for _, name in ipairs(TOUCHED) do memory:set(METADATA, name, headers:get(name) or false) end
  end
end

local function looks_like_json(headers)
  local kind = (headers:get('content-type') or 'json'):lower()
  return kind:find('json', 1, true) and kind:sub(1, 16) ~= 'application/grpc'
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local config = CONFIGS[ONLY or headers:get(VARIANT_HEADER)]
  headers:remove(VARIANT_HEADER)
  begin(handle, headers)
  if not config then return end
  for _, header in ipairs(config.headers) do headers:replace(header[1], header[2]) end
  local path = headers:get(':path')
  for _, rule in ipairs(config.paths) do
    if path:sub(1, #rule[1]) == rule[1] then
      local rest = path:sub(#rule[1] + 1)
      local changed = rule[2] .. rest
      headers:replace(':path', changed:sub(1, 1) == '/' and changed or '/' .. changed)
      break
    end
  end
  if config.model and looks_like_json(headers) then
    local body = handle:body()
    local changed = body and with_model(body:getBytes(0, body:length()), config.model)
    if changed then body:setBytes(changed) end
  end
end
"""


def body_limit(wish: Traffic) -> UInt64Value | None:
    """How much of a body the proxy may hold; None = what it holds anyway, because nobody looks into it."""
    return UInt64Value(value=BODY_BYTES) if any(config.model is not None for config in _configs(wish)) else None


def prefixes(wish: Traffic) -> tuple[str, ...]:
    """What a variant's path may take the place of, longest first; () if no variant has one."""
    if all(config.path is None for config in _configs(wish)):
        return ()
    return tuple(sorted({match.path_prefix for match in wish.where.match}, key=lambda prefix: (-len(prefix), prefix)))


def _configs(wish: Traffic) -> Iterator[Config]:
    return (variant.config for variant in (wish.stable, *(arm.variant for arm in wish.arms), *wish.kept))


def pod_metadata(variant: Variant) -> base_pb2.Metadata:
    """Whose pod this is."""
    metadata = base_pb2.Metadata()
    metadata.filter_metadata[METADATA]["variant"] = variant.identity
    return metadata


def filters(variants: Sequence[Variant], of_prefixes: Sequence[str]) -> tuple[HttpFilter, ...]:
    """The filters of a cluster whose requests may go to any of these variants; () if none of them changes anything."""
    configs = {variant.identity: variant.config for variant in variants}
    changing = {identity: config for identity, config in configs.items() if config != Config()}
    if not changing:
        return ()
    choice = () if len(configs) == 1 else (_tell_variant(),)
    only = next(iter(configs)) if len(configs) == 1 else None
    lua = lua_pb2.Lua(default_source_code=base_pb2.DataSource(inline_string=_script(changing, only, of_prefixes)))
    return (
        *choice,
        HttpFilter(name="crossfade.config", typed_config=pack(lua)),
        HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=pack(upstream_codec_pb2.UpstreamCodec())),
    )


def _tell_variant() -> HttpFilter:
    mutation = header_mutation_pb2.HeaderMutation()
    append = mutation.mutations.request_mutations.add().append
    append.header.key = VARIANT_HEADER
    append.header.value = f"%UPSTREAM_METADATA({METADATA}:variant)%"
    append.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    return HttpFilter(name="crossfade.variant", typed_config=pack(mutation))


def _script(configs: dict[str, Config], only: str | None, of_prefixes: Sequence[str]) -> str:
    entries = ", ".join(f"[{_text(identity)}] = {_table(config, of_prefixes)}" for identity, config in sorted(configs.items()))
    settings = {
        "METADATA": _text(METADATA),
        "VARIANT_HEADER": _text(VARIANT_HEADER),
        "ONLY": _text(only) if only is not None else "nil",
        "TOUCHED": _list(map(_text, _touched(configs.values()))),
        "CONFIGS": f"{{{entries}}}",
    }
    return "".join(f"local {name} = {value}\n" for name, value in settings.items()) + SCRIPT


def _touched(configs: Iterable[Config]) -> Iterator[str]:
    """Headers that some of the variants change."""
    found = {name for config in configs for name, _ in config.headers}
    if any(config.path is not None for config in configs):
        found.add(":path")
    if any(config.model is not None for config in configs):
        found.add("content-length")
    return iter(sorted(found))


def _table(config: Config, of_prefixes: Sequence[str]) -> str:
    headers = _list(_list((_text(name), _text(value))) for name, value in config.headers)
    paths = _list(_list((_text(prefix), _text(_replacement(prefix, config.path)))) for prefix in of_prefixes if config.path is not None)
    model = _text(json.dumps(config.model, ensure_ascii=False)) if config.model is not None else "nil"
    return f"{{headers = {headers}, paths = {paths}, model = {model}}}"


def _replacement(prefix: str, path: str) -> str:
    """The path with a slash at its end exactly if the prefix has one: `/v1/` and `/v2` make `/v2/chat` of `/v1/chat`."""
    return path.removesuffix("/") + ("/" if prefix.endswith("/") else "")


def _list(items: Iterable[str]) -> str:
    return f"{{{', '.join(items)}}}"


def _text(value: str) -> str:
    """A Lua string of these bytes in UTF-8; escapes have three digits, so the next character is never part of one."""
    plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:03d}" for byte in value.encode())
    return f'"{"".join(plain)}"'
