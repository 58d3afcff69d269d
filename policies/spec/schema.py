"""The JSON Schema of the policy file, made of the same models that read it, so that editors and `validate` agree."""

import json
from typing import Any, Final

from pydantic.json_schema import models_json_schema

from policies.spec.documents import KINDS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema(kind: str | None = None) -> dict[str, Any]:
    """Of one kind of document (any case), or of any kind. Raises: KeyError: If there is no such kind."""
    wanted = {name: model for name, model in KINDS.items() if kind is None or name.lower() == kind.lower()}
    if not wanted:
        raise KeyError(kind)
    references, definitions = models_json_schema([(model, "validation") for model in wanted.values()], ref_template="#/$defs/{model}")
    choices = [references[model, "validation"] for model in wanted.values()]
    head: dict[str, Any] = {"$schema": DIALECT, "title": f"Crossfade policy: {', '.join(wanted)}"}
    body = choices[0] if len(choices) == 1 else {"oneOf": choices}
    return head | body | {"$defs": {name: _plain(part) for name, part in definitions["$defs"].items()}}


def render_schema() -> str:
    """docs/policy.schema.json."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """As a person writes it: no null (an empty key is an error), no defaults in our own units, no titles that repeat the key."""
    if isinstance(value, list):
        return [_plain(inner) for inner in value if inner != {"type": "null"}]
    if not isinstance(value, dict):
        return value
    plain = {
        key: _examples(inner) if key == "examples" else _keys(inner) if key == "properties" else _plain(inner)
        for key, inner in value.items()
        if not (key == "examples" and not _examples(inner))
        and not (key == "title" and isinstance(inner, str))
        and not (key == "default" and not isinstance(inner, str))
    }
    alternatives = plain.get("anyOf")
    if isinstance(alternatives, list) and len(alternatives) == 1:
        plain = alternatives[0] | {key: inner for key, inner in plain.items() if key != "anyOf"}
    return plain


def _keys(properties: Any) -> Any:
    """Keys of the policy, which may be called what the schema's own are."""
    return {name: _plain(part) for name, part in properties.items()}


def _examples(examples: Any) -> Any:
    """Examples in braces are YAML for messages; an editor needs no example of a mapping."""
    return [example for example in examples if not (isinstance(example, str) and example.startswith("{"))]
