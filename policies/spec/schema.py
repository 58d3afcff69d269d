"""The JSON Schema of the policy file, made of the same models that read it, so that editors and `validate` agree."""

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from policies.spec.documents import KINDS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: str | None = None) -> dict[str, Any]:
    """Of one kind of document, or of any. Raises: KeyError: If there is no such kind."""
    wanted = {name: model for name, model in KINDS.items() if kind is None or name.lower() == kind.lower()}
    if not wanted:
        raise KeyError(kind)
    references, definitions = models_json_schema([(model, "validation") for model in wanted.values()], ref_template="#/$defs/{model}")
    choices = [references[model, "validation"] for model in wanted.values()]
    head: dict[str, Any] = {"$schema": DIALECT, "title": "Crossfade policy"}
    body = choices[0] if len(choices) == 1 else {"oneOf": choices}
    lease = definitions["$defs"].get("RolloutSpec", {}).get("properties", {}).get("lease")
    if lease is not None:  # the short form `lease: 30s`
        definitions["$defs"]["RolloutSpec"]["properties"]["lease"] = {
            "anyOf": [{"$ref": "#/$defs/Lease"}, definitions["$defs"]["Lease"]["properties"]["ttl"] | {"default": "30s"}]
        }
    return head | body | definitions


def render_schema() -> str:
    """docs/policy.schema.json."""
    return json.dumps(_readable(schema()), indent=2, ensure_ascii=False) + "\n"


def _readable(value: Any) -> Any:
    """Defaults are kept in our own units (seconds, hundredths of a per cent): in the schema they would mislead."""
    if isinstance(value, dict):
        return {
            key: _readable(inner)
            for key, inner in value.items()
            if not (key == "default" and (isinstance(inner, int | float | dict | list) and not isinstance(inner, bool)))
        }
    return [_readable(inner) for inner in value] if isinstance(value, list) else value
