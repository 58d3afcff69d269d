"""`python -m bench [NAME...]`: runs the named benchmarks, or all."""

import asyncio
import importlib
import json
import sys
from pathlib import Path

NAMES = ("engine", "policies", "start", "reaction", "publish", "fanout", "robust")
OUT = Path(__file__).parent / "out"


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}\nhint: one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    for name in names or NAMES:
        figures = asyncio.run(importlib.import_module(f"bench.{name}").run())
        (OUT / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
