"""Files that are generated from code and must be in step with it: `--check` (part of `make check`) or `--write`.

docs/policy.schema.json   the JSON Schema of the policy file
docs/cli.md               the `--help` texts
xds_server/_pb            compiled .proto files (`--write-proto`, `make proto`)
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PB = ROOT / "xds_server" / "_pb"
PROTO = ROOT / "proto"


def documents() -> Iterator[tuple[Path, str]]:
    from policies.spec.schema import render_schema
    from xds_server.cli.docs import render_cli_docs

    yield ROOT / "docs" / "policy.schema.json", render_schema()
    yield ROOT / "docs" / "cli.md", render_cli_docs()


def compile_protos(out: Path) -> None:
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    if sources:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={out}", f"--pyi_out={out}", *sources]
        subprocess.run(command, check=True)


def stale() -> list[str]:
    found = [str(path.relative_to(ROOT)) for path, text in documents() if not path.exists() or path.read_text() != text]
    with tempfile.TemporaryDirectory() as made:
        compile_protos(Path(made))
        wanted = {path.relative_to(made): path.read_bytes() for path in Path(made).rglob("*.py*") if path.is_file()}
    have = {path.relative_to(PB): path.read_bytes() for path in PB.rglob("*_pb2.py*") if "__pycache__" not in path.parts}
    return found + [
        f"xds_server/_pb/{name}" for name in sorted(map(str, wanted.keys() | have.keys())) if wanted.get(Path(name)) != have.get(Path(name))
    ]


def main(argument: str) -> int:
    match argument:
        case "--write":
            for path, text in documents():
                path.write_text(text)
        case "--write-proto":
            compile_protos(PB)
        case "--check":
            found = stale()
            for name in found:
                print(f"{name} is out of step with the code\nhint: python -m tests.generated --write (or make proto)", file=sys.stderr)
            return 1 if found else 0
        case _:
            print("usage: python -m tests.generated --check | --write | --write-proto", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
