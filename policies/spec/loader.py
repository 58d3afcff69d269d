"""Policy files -> documents in force, with every fault of every file at once. Pure: the caller read the bytes.

A file is judged by itself (and not again while its text stays the same), then what it takes from other documents and files is put in, then the
good documents are held against each other: groups that do not exist, two rollouts on one host and path, a layer that is too full. Where two
documents clash both are told and neither is in force: which file's name comes first is no reason to prefer it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import Final, TypeVar

from pydantic import ValidationError

from policies.errors import SpecError
from policies.spec import checks, companions, wording
from policies.spec.documents import KINDS, GateBundle, Proxies, Rollout
from policies.spec.doubts import doubts
from policies.spec.faults import Fault, one_of
from policies.spec.policy import Gate, ProbeRequest, ProxiesPolicy, RolloutPolicy
from policies.spec.reader import Document, Path, Place, read
from policies.spec.steps import Companions, Mention
from policies.spec.units import did_you_mean

ERRORS_MAX: Final = 100
"""Faults told of one file."""

T = TypeVar("T")
Texts = Mapping[str, bytes | str]
Reread = dict[str, tuple[bytes | str, list[Document]]]
"""Files that were read again for the places of faults: text and documents."""

Zones = Callable[[str], bool]
"""Whether there is a time zone of this IANA name."""

Value = RolloutPolicy | ProxiesPolicy | tuple[Gate, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """One document.

    Attributes:
        index: Its place in its file.
        model: None = it is not good by itself.
        value: None = that, or it takes something from elsewhere and has not got it yet.
        errors, warnings: What can be said without other documents and files.
    """

    file: str
    index: int
    kind: str
    name: str
    model: Rollout | Proxies | GateBundle | None
    value: Value | None
    errors: tuple[SpecError, ...] = ()
    warnings: tuple[SpecError, ...] = ()


@dataclass(frozen=True, slots=True)
class JudgedFile:
    """One file by itself. `unread`: something could not be read that may be a document that others name."""

    text: bytes | str
    documents: tuple[Judged, ...]
    errors: tuple[SpecError, ...]
    unread: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a set of files says.

    Attributes:
        bundles: Gates by the name of their GateBundle.
        files: (kind, name) of each good document -> its file.
        errors: In the order of files and lines.
        warnings: Faults that forbid nothing.
        judged: What the next `load` need not do again.
    """

    rollouts: tuple[RolloutPolicy, ...]
    proxies: tuple[ProxiesPolicy, ...]
    bundles: Mapping[str, tuple[Gate, ...]]
    errors: tuple[SpecError, ...]
    warnings: tuple[SpecError, ...]
    files: Mapping[tuple[str, str], str]
    judged: Mapping[str, JudgedFile] = field(default_factory=dict, repr=False, compare=False)


def load(texts: Texts, before: Loaded | None = None, *, zones: Zones | None = None, reread: Reread | None = None) -> Loaded:
    """Judges files together.

    Args:
        texts: File name -> its bytes (or its text). Names with slashes, relative to the root of the policies; what ends with .jsonl or .json is
            a companion: it says nothing by itself, a policy may name it.
        before: What an earlier set said; files that are still the same are not read again. The result is the same without.
        zones: Looks into the time-zone database, which only the caller can read; without, every zone is taken for one that exists.
        reread: Kept by who judges nearly the same files many times; the result is the same without.
    """
    known = before.judged if before is not None else {}
    policies = {file: text for file, text in texts.items() if not file.endswith(companions.SUFFIXES)}
    judged = {file: _known_or_judged(known.get(file), file, policies[file], zones) for file in sorted(policies)}
    places = _Places(policies, {} if reread is None else reread)
    linker = _Linker(texts, judged.values(), places)
    linked = [linker.linked(each) for file in judged.values() for each in file.documents]
    good = [each for each in linked if each.value is not None]
    kept, between = _compatible(good, judged, places)
    among = sorted([*(error for each in linked for error in each.errors), *linker.errors, *between], key=_order)
    errors = [error for file in judged.values() for error in file.errors]
    errors += [error for file, group in groupby(among, key=lambda error: error.file) for error in _capped(file, list(group))]
    return Loaded(
        rollouts=tuple(sorted((each.value for each in kept if isinstance(each.value, RolloutPolicy)), key=lambda value: value.name)),
        proxies=tuple(sorted((each.value for each in kept if isinstance(each.value, ProxiesPolicy)), key=lambda value: value.name)),
        bundles={each.name: each.value for each in kept if isinstance(each.value, tuple)},
        errors=tuple(sorted(errors, key=_order)),
        warnings=tuple(sorted((warning for each in kept for warning in each.warnings), key=_order)),
        files={(each.kind, each.name): each.file for each in kept},
        judged=judged,
    )


# One file by itself.


def _known_or_judged(known: JudgedFile | None, file: str, text: bytes | str, zones: Zones | None) -> JudgedFile:
    return known if known is not None and known.text == text else _judged_file(file, text, zones)


def _judged_file(file: str, text: bytes | str, zones: Zones | None) -> JudgedFile:
    documents, wrong = read(file, text)
    judged = [_judged(document, file, index, zones) for index, document in enumerate(documents)]
    errors = [*wrong, *(error for each in judged for error in each.errors)]
    return JudgedFile(
        text=text,
        documents=tuple(replace(each, errors=()) if each.errors else each for each in judged),
        errors=tuple(_capped(file, errors)),
        unread=bool(wrong)
        or any(each.model is None and not (each.kind in KINDS and each.name) and each.kind != "Rollout" for each in judged),
    )


def _judged(document: Document, file: str, index: int, zones: Zones | None) -> Judged:
    """A document by itself, with all its faults."""
    errors = [_error(file, each.place, Fault(path=each.path, message=each.message, hint=each.hint)) for each in document.faults]
    model, faults = _understood(document, {each.path for each in document.faults if each.lost}, zones)
    errors += [_error(file, document.place(fault.path), fault) for fault in faults]
    data = document.data
    kind, metadata = (data.get("kind"), data.get("metadata")) if isinstance(data, dict) else (None, None)
    name = metadata.get("name") if isinstance(metadata, dict) else None
    found = Judged(
        file=file,
        index=index,
        kind=kind if isinstance(kind, str) else "",
        name=name if isinstance(name, str) else "",
        model=None if errors else model,
        value=None,
        errors=tuple(errors),
    )
    if found.model is None or (isinstance(found.model, Rollout) and any(True for _ in found.model.mentions())):
        return found
    return _valued(found, Companions(), document.place)


def _understood(document: Document, lost: set[Path], zones: Zones | None) -> tuple[Rollout | Proxies | GateBundle | None, list[Fault]]:
    data = document.data
    if not isinstance(data, dict):
        if () in lost:
            return None, []
        what = "a list" if isinstance(data, list) else "a single value"
        return None, [Fault(path=(), message=f"{what} is no policy document", expected="a mapping of apiVersion, kind, metadata, spec")]
    kind = data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return None, [wording.unknown_kind(kind, said="kind" in data)]
    faults = [wording.empty_fault(path) for path in document.empty[: wording.FAULTS_MAX] if path not in lost]
    try:
        read_as = model.model_validate(data)
    except ValidationError as error:
        return None, [*faults, *wording.faults(document, model, error, {*lost, *document.empty})]
    if not faults and not lost:  # else `None` stands where something was meant
        faults += checks.faults(read_as)
        faults += checks.unknown_zones(read_as, zones) if zones is not None and isinstance(read_as, Rollout) else ()
    return read_as, faults


def _valued(judged: Judged, found: Companions, place: Callable[[Path], Place]) -> Judged:
    """With its value, or with what is wrong with its gates now that all of them are known."""
    model = judged.model
    if not isinstance(model, Rollout):
        return replace(judged, value=model.value() if model is not None else None)
    faults = [_error(judged.file, place(fault.path), fault) for fault in checks.faults_of_gates(model, found.bundles)]
    if faults:
        return replace(judged, model=None, errors=tuple(faults))
    value = model.value(found)
    return replace(judged, value=value, warnings=tuple(_error(judged.file, place(fault.path), fault) for fault in doubts(value)))


class _Places:
    """Where things stand in files that need not have been read this time."""

    def __init__(self, texts: Texts, reread: Reread) -> None:
        self._texts = texts
        self._reread = reread

    def of(self, judged: Judged, path: Path) -> Place:
        text, known = self._texts[judged.file], self._reread.get(judged.file)
        if known is None or known[0] != text:
            known = self._reread[judged.file] = (text, read(judged.file, text)[0])
        return known[1][judged.index].place(path)


# What documents take from other documents and files.


class _Linker:
    """Gives rollouts what they mention.

    Attributes:
        errors: Faults of companions that were looked at.
    """

    def __init__(self, texts: Texts, judged: Iterable[JudgedFile], places: _Places) -> None:
        self._files = {file: text for file, text in texts.items() if file.endswith(companions.SUFFIXES)}
        self._places = places
        self._bundles: dict[str, list[Judged]] = {}
        for each in (each for file in judged for each in file.documents if each.kind == "GateBundle"):
            self._bundles.setdefault(each.name, []).append(each)
        self._requests: dict[str, tuple[tuple[ProbeRequest, ...], tuple[SpecError, ...]]] = {}
        self._schemas: dict[str, tuple[str, tuple[SpecError, ...]]] = {}

    @property
    def errors(self) -> list[SpecError]:
        return [error for _, errors in (*self._requests.values(), *self._schemas.values()) for error in errors]

    def linked(self, judged: Judged) -> Judged:
        """The document with its value, if it is good and all that it mentions is."""
        if judged.value is not None or not isinstance(judged.model, Rollout):
            return judged
        requests, schemas, bundles = dict[str, tuple[ProbeRequest, ...]](), dict[str, str](), dict[str, tuple[Gate, ...]]()
        errors: list[SpecError] = []
        for mention in judged.model.mentions():
            match mention.kind:
                case "requests":
                    fault = self._companion(mention, judged.file, requests, self._requests, companions.requests)
                case "schemas":
                    fault = self._companion(mention, judged.file, schemas, self._schemas, companions.json_schema)
                case "bundles":
                    fault = self._bundle(mention, bundles)
            if fault is not None:
                errors.append(_error(judged.file, self._places.of(judged, fault.path), fault))
        if errors:
            return replace(judged, model=None, errors=tuple(errors))
        found = Companions(requests=requests, schemas=schemas, bundles=bundles)
        return _valued(judged, found, lambda path: self._places.of(judged, path))

    def _companion(
        self,
        mention: Mention,
        beside: str,
        into: dict[str, T],
        known: dict[str, tuple[T, tuple[SpecError, ...]]],
        understood: Callable[[str, bytes | str], tuple[T, tuple[SpecError, ...]]],
    ) -> Fault | None:
        file = companions.find(mention.name, beside, self._files)
        if file is None:
            expected = f"a file beside {beside} or in a folder around it, whose name ends with {' or '.join(companions.SUFFIXES)}"
            hint = did_you_mean(mention.name, [*self._files][:1000])
            return Fault(path=mention.path, message=f"there is no file {mention.name!r}", expected=expected, hint=hint)
        if file not in known:
            known[file] = understood(file, self._files[file])
        into[mention.name], errors = known[file]
        if errors:
            message = f"{file} cannot be used: its line {errors[0].line} is wrong"
            return Fault(path=mention.path, message=message, expected="a file without faults", hint="mend it there")
        return None

    def _bundle(self, mention: Mention, into: dict[str, tuple[Gate, ...]]) -> Fault | None:
        holders = self._bundles.get(mention.name, [])
        for each in holders:
            if isinstance(each.value, tuple):
                into[mention.name] = each.value
                return None
        if holders:
            message = f"GateBundle {mention.name!r} cannot be used: it is broken ({holders[0].file})"
            return Fault(path=mention.path, message=message, expected="a bundle without faults", hint="mend it there")
        known = sorted(self._bundles)
        hint = did_you_mean(mention.name, known) or ("" if known else "add a document of kind: GateBundle")
        return Fault(path=mention.path, message=f"there is no GateBundle named {mention.name!r}", expected=one_of(known), hint=hint)


# Documents among each other.


def _compatible(good: list[Judged], files: Mapping[str, JudgedFile], places: _Places) -> tuple[list[Judged], list[SpecError]]:
    """The documents that get on with all others, and what is wrong with the rest."""
    faults: dict[int, list[Fault]] = {}
    for index, other in _rivals(good):
        for one, two in ((index, other), (other, index)):
            found = _clash(good[one], good[two])
            if found is not None:
                message = f"{found.message} ({good[two].file}, line {places.of(good[two], found.there)[0]})"
                fault = Fault(path=found.here, message=message, expected=found.expected, hint=found.hint)
                faults.setdefault(one, []).append(fault)
    # Not being able to use a group that is there and broken is not its rollouts' fault.
    broken = {each.name for file in files.values() for each in file.documents if each.kind == "Proxies" and each.model is None}
    unread = any(file.unread for file in files.values())
    groups = {each.name: each.value for each in good if isinstance(each.value, ProxiesPolicy)}
    rollouts = {index: each.value for index, each in enumerate(good) if isinstance(each.value, RolloutPolicy)}
    for index, value in rollouts.items():
        wanted = value.traffic.proxies
        lost = None if wanted in broken or (unread and wanted not in groups) else checks.dangling(value, groups)
        if lost is not None:
            faults.setdefault(index, []).append(lost)
    for index, fault in (*checks.overfull(rollouts), *checks.strangers(rollouts)):
        faults.setdefault(index, []).append(fault)
    errors = [_error(good[index].file, places.of(good[index], fault.path), fault) for index, found in faults.items() for fault in found]
    return [each for index, each in enumerate(good) if index not in faults], errors


def _clash(one: Judged, other: Judged) -> checks.Clash | None:
    if one.kind == other.kind and one.name == other.name:
        return checks.same_name(one.name)
    if isinstance(one.value, RolloutPolicy | ProxiesPolicy) and isinstance(other.value, RolloutPolicy | ProxiesPolicy):
        return checks.clash(one.value, other.value)
    return None


def _rivals(good: list[Judged]) -> Iterator[tuple[int, int]]:
    """Pairs that may clash, each once: only what shares a name, a selection or a place of traffic."""
    claims: dict[object, list[int]] = {}
    for index, each in enumerate(good):
        for claim in _claims(each):
            claims.setdefault(claim, []).append(index)
    pairs = {(first, second) for holders in claims.values() for first, second in pairwise(holders) if first != second}
    yield from sorted(pairs)


def _claims(each: Judged) -> Iterable[object]:
    yield (each.kind, each.name)
    if isinstance(each.value, ProxiesPolicy):
        yield each.value.select
    elif isinstance(each.value, RolloutPolicy):
        where = each.value.traffic
        for match in where.match:
            yield (where.proxies, where.listener, match)


# Places, order.


def _error(file: str, place: Place, fault: Fault) -> SpecError:
    return SpecError(
        file=file,
        line=place[0],
        column=place[1],
        path=wording.written(fault.path),
        message=fault.message,
        expected=fault.expected,
        hint=fault.hint,
    )


def _order(error: SpecError) -> tuple[str, int, int]:
    return error.file, error.line, error.column


def _capped(file: str, errors: list[SpecError]) -> list[SpecError]:
    if len(errors) <= ERRORS_MAX:
        return errors
    kept = sorted(errors, key=_order)[:ERRORS_MAX]
    message = f"{len(errors) - ERRORS_MAX} more errors in this file are not shown"
    return [*kept, SpecError(file=file, line=kept[-1].line, column=kept[-1].column, path="", message=message, hint="mend these first")]
