"""Policies that mean harm: good documents with parts replaced, moved, misspelt and doubled, then written with faults of the text, bombs among them."""

import copy
import re
import time
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from policies.gates import open_gate
from policies.spec.companions import SUFFIXES
from policies.spec.loader import load
from policies.spec.policy import ProxiesPolicy, RolloutPolicy
from policies.steps import stages

LONGEST_S = 1.0
"""Time of the processor that judging one set of files may take."""

MOST = 20_000
"""Parts of documents that are not spoilt further: lists made sixty times as long again and again would fill the memory before they are judged."""

ADAPTER = TypeAdapter(tuple[tuple[RolloutPolicy, ...], tuple[ProxiesPolicy, ...]])
FOLDER = Path(__file__).parents[2] / "deploy/examples"
FILES = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in sorted(FOLDER.rglob("*")) if path.is_file()}
GOOD = [list(yaml.safe_load_all(content)) for file, content in FILES.items() if file.endswith(".yaml")]
COMPANIONS = {file: content for file, content in FILES.items() if file.endswith(SUFFIXES)}

BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML takes for the end of a line."""

SCALARS = (
    None, True, False, 0, -1, 5, 10**17, 10**400, 1.5, float("inf"), float("nan"), "", " ", "x", "5%", "0%", "100%", "100.01%", "-1%", "5m", "1e9d", "366d",
    "none", "stable", "candidate", "b", "10.0.0.7:80", "[::1]:80", "*", "/", "p99", "1/s", "0 0 31 2 *", "* * * * *", "UTC", "\x00", "\x07", "ü", "\U0001f600",
    "\u2028", "a" * 70, "a" * 5000, "((((a*)*)*)*)*b", "${x}", "../../etc/passwd", "/etc/passwd", "chat.jsonl", "samples/chat.jsonl", "samples",
)  # fmt: skip
TOKENS = (
    b"&a ", b"*a", b"<<: ", b"!!x ", b"!!int ", b"!!python/object:os.system ", b"[", b"]", b"{", b"}", b"- ", b"\n", b"\t", b"? ", b": ", b"---\n", b"...\n",
    b"'", b'"', b"|\n", b">\n", b"#", b"%TAG ! x\n", b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8", b"\r", b"~", b"9" * 5000, b"[" * 500,
)  # fmt: skip


def _laughs(depth, width):
    rows = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth))]
    return "\n".join(rows).encode()


BOMBS = (
    _laughs(40, 9),
    _laughs(5, 12) + b"\n---\n" + _laughs(5, 12),
    b"a: &a [*a]",
    b"[" * 100_000,
    b"{a: " * 50_000,
    b"? " * 100_000,
    b"---\na\n" * 1200,
    b"a: 1\n" * 20_000,
    b"".join(b"a%d: 1\n" % n for n in range(20_000)),
    b"%TAG !a! x\n" * 50_000,
    b'a: "' + b"\\n" * 100_000 + b'"',
    b"x" * 2_000_000,
)


def places(data, path=()):
    """Every path of plain data."""
    yield path
    for key, inner in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(inner, (*path, key))


def at(data, path):
    for part in path:
        data = data[part]
    return data


def put(data, path, new):
    """A copy with something else at a path."""
    if not path:
        return new
    data = copy.deepcopy(data)
    at(data, path[:-1])[path[-1]] = new
    return data


def sound(found, files):
    """What holds of any set of files."""
    for error in (*found.errors, *found.warnings):
        assert error.file in files
        assert error.line >= 1
        assert error.column >= 1
        assert error.message
        assert isinstance(error.path, str)
        assert error.line <= len(BREAK.split(files[error.file].decode("utf-8", "replace"))) + 1
    assert list(found.errors) == sorted(found.errors, key=lambda error: (error.file, error.line, error.column))
    assert len({policy.name for policy in found.rollouts}) == len(found.rollouts)
    for policy in found.rollouts:
        forward(policy)
        for gate in policy.gates:
            open_gate(gate, now=0.0, deadline_s=1.0)
    values = (found.rollouts, found.proxies)
    assert ADAPTER.validate_json(ADAPTER.dump_json(values)) == values


def forward(policy):
    """No arm's share shrinks, except that a switch takes everything; together they have 100 % at most."""
    reached = {arm.name: 0 for arm in policy.arms}
    for stage in stages(policy):
        shares = dict(stage.shares)
        assert shares.keys() <= (reached.keys() or {"candidate"})
        assert sum(shares.values()) <= 10_000
        assert stage.kind == "switch" or all(share >= reached.get(arm, 0) for arm, share in shares.items())
        reached |= shares


class Spoiler:
    """An endless source of sets of files. Args: chance: Where all of it comes from."""

    def __init__(self, chance):
        self.chance = chance

    def files(self):
        chance = self.chance
        files = {file: self.cut_up(content, 0.1) for file, content in COMPANIONS.items() if chance.random() < 0.9}
        for number in range(chance.choice((1, 1, 2, 3))):
            documents = chance.choice(GOOD)
            for _ in range(chance.choice((0, 1, 1, 2, 5))):
                if len(list(places(documents))) < MOST:
                    documents = self.spoilt(documents)
            files[f"{number}.yaml"] = self.cut_up(self.written(documents), 0.3)
        if chance.random() < 0.02:
            files["bomb.yaml"] = chance.choice(BOMBS)
        return files

    def spoilt(self, documents):
        """One part is something else, gone, twice there, or called otherwise."""
        chance = self.chance
        path = chance.choice(list(places(documents))[1:] or [()])
        match chance.randrange(6) if path else 0:
            case 0 | 1:
                return put(documents, path, chance.choice((*SCALARS, [], {}, [{}], {"a": {}})))
            case 2:
                other = chance.choice(GOOD)
                return put(documents, path, at(other, chance.choice(list(places(other)))))
            case 3:
                without = copy.deepcopy(documents)
                del at(without, path[:-1])[path[-1]]
                return without
            case 4:
                owner, part = at(documents, path[:-1]), at(documents, path)
                more = [*owner, part] if isinstance(owner, list) else {**owner, f"{path[-1]}s": part}
                return put(documents, path[:-1], more)
            case _:
                owner = at(documents, path[:-1])
                if isinstance(owner, list):
                    return put(documents, path[:-1], owner * chance.choice((2, 60)))
                name = chance.choice(("", "stable", "b", "use", f"{path[-1]}"[:-1], f"{path[-1]}".upper(), "x" * 300))
                return put(documents, path[:-1], {name if key == path[-1] else key: value for key, value in owner.items()})

    def written(self, documents):
        flow = self.chance.choice((None, False, True))
        documents = documents if isinstance(documents, list) else [documents]
        return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, default_flow_style=flow).encode("utf-8", "surrogatepass")

    def cut_up(self, content, odds):
        chance = self.chance
        while chance.random() < odds:
            start = chance.randrange(len(content) + 1)
            end = start + chance.choice((0, 0, 1, 3, 30))
            content = content[:start] + chance.choice((*TOKENS, chance.randbytes(3), b"")) + content[end:]
        return content


def judge(files, longest_s=None):
    """Judges a set of files, and again with what is known of it. Raises: AssertionError: What must not be. True if something of it is in force."""
    began = time.process_time()
    found = load(files)
    took_s = time.process_time() - began
    assert longest_s is None or took_s < longest_s, f"took {took_s:.1f} s"
    sound(found, files)
    assert load(files, found) == found
    return bool(found.rollouts)


def judge_any(source):
    """Judges the next set of a source, and how long it takes."""
    files = source.files()
    try:
        return judge(files, LONGEST_S)
    except Exception as error:
        error.add_note(f"files={ {file: content[:20_000] for file, content in files.items() if file not in COMPANIONS} }")
        raise
