"""`python -m bench [NAME...]`: runs the named benchmarks, or all. `--option`s go to the one that knows them."""

import asyncio
import importlib
import json
import sys
from pathlib import Path

NAMES = ("engine", "policies", "start", "reaction", "publish", "fanout", "ingest", "robust", "gates", "recordings", "replay")
OUT = Path(__file__).parent / "out"


def main(arguments: list[str]) -> int:
    names = [argument for argument in arguments if not argument.startswith("--")]
    options = [argument for argument in arguments if argument.startswith("--")]
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        print(f"no benchmark named {', '.join(unknown)}\nhint: one of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    for name in names or NAMES:
        benchmark = importlib.import_module(f"bench.{name}")
        known = getattr(benchmark, "OPTIONS", ())
        strange = [option for option in options if not option.startswith(tuple(known))]
        if strange:
            print(f"{name} has no option {', '.join(strange)}\nhint: {', '.join(known) or 'it has none'}", file=sys.stderr)
            return 2
        figures = asyncio.run(benchmark.run(*options))
        (OUT / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
