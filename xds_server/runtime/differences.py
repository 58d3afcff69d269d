"""What applying policy files would change here: the documents as they would be in force, against the rollouts as they are.

The rules are `policies.changes`; this only finds the two sides. Reads and changes nothing, so it may run in a thread.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from policies.changes import Change, Effect, differences, effect_on
from policies.errors import SpecError
from policies.rollout import Rollout
from policies.spec.loader import Loaded
from policies.spec.policy import RolloutPolicy
from policies.spec.reader import Data, read
from xds_server.runtime.documents import Documents, is_document
from xds_server.services.control import JsonObject

Key = tuple[str, str]
"""(kind, name) of a document."""


def difference(documents: Documents, states: Mapping[str, Rollout], texts: Mapping[str, bytes], *, whole: bool) -> JsonObject:
    """{"changes": [{"kind", "name", "file", "effect", "words", "fields": [{"path", "old", "new"}]}], "errors": [faults of the files]}.

    One row for each document that is in force or would be; `file` is where it would stand, `effect` a `policies.changes.Effect`.

    Args:
        states: The rollouts by name.
        texts: Policy files and companions.
        whole: They are all there would be; else the other documents stay, and only those in the files are compared.
    """
    written = _documents(texts)
    if not whole:
        texts = _others(documents.good, written) | dict(texts)
    would, errors = documents.imagine(texts)
    now = _Side(documents.loaded, _documents(documents.good))
    then = _Side(would, _documents({file: texts[file] for file in set(would.files.values()) if file in texts}))
    keys = now.written.keys() | now.loaded.files.keys() | written.keys() | would.files.keys() if whole else written.keys()
    changes = [change for key in sorted(keys) if (change := _change(key, now, then, states.get(key[1]))) is not None]
    return {
        "changes": [_as_json(change, would.files.get((change.kind, change.name), "")) for change in changes],
        "errors": [_fault(error) for error in errors],
    }


@dataclass(frozen=True, slots=True)
class _Side:
    """Documents in force, and how they are written."""

    loaded: Loaded
    written: Mapping[Key, Data]

    def policy(self, name: str) -> RolloutPolicy | None:
        return next((policy for policy in self.loaded.rollouts if policy.name == name), None)


def _change(key: Key, now: _Side, then: _Side, state: Rollout | None) -> Change | None:
    """What happens to one document; None = it is on neither side."""
    kind, name = key
    was, will = key in now.loaded.files, key in then.loaded.files
    fields = differences(now.written[key], then.written[key]) if key in now.written and key in then.written else ()
    if kind != "Rollout":
        effect = Effect.NEW if not was else Effect.GONE if not will else Effect.EDITED if fields else Effect.UNCHANGED
        return Change(kind=kind, name=name, effect=effect, fields=fields) if was or will else None
    policy = then.policy(name)
    effect, words = effect_on(state, policy)
    if effect is Effect.UNCHANGED:
        return Change(kind=kind, name=name, effect=effect) if will else None
    if state is not None and policy is not None and not fields:
        fields = differences(state.policy, policy)  # a file or a bundle that it uses has changed
    return Change(kind=kind, name=name, effect=effect, words=words, fields=fields)


def _as_json(change: Change, file: str) -> JsonObject:
    return {
        "kind": change.kind,
        "name": change.name,
        "file": file,
        "effect": change.effect.value,
        "words": change.words,
        "fields": [{"path": each.path, "old": each.old, "new": each.new} for each in change.fields],
    }


def _fault(error: SpecError) -> JsonObject:
    return dict(asdict(error))


def _others(good: Mapping[str, bytes], written: Mapping[Key, Data]) -> dict[str, bytes]:
    """Files in force that have none of the documents that are written anew."""
    return {file: text for file, text in good.items() if not _documents({file: text}).keys() & written.keys()}


def _documents(texts: Mapping[str, bytes]) -> dict[Key, Data]:
    """Every document as it is written, by kind and name."""
    return dict(_each(texts))


def _each(texts: Mapping[str, bytes]) -> Iterator[tuple[Key, Data]]:
    for file, text in texts.items():
        for document in read(file, text)[0] if is_document(file) else ():
            data = document.data
            metadata = data.get("metadata") if isinstance(data, dict) else None
            kind, name = (data.get("kind"), metadata.get("name")) if isinstance(data, dict) and isinstance(metadata, dict) else (None, None)
            if isinstance(kind, str) and isinstance(name, str):
                yield (kind, name), data
