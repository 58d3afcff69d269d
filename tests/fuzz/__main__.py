"""`python -m tests.fuzz [--inputs N] [--sessions N] [--interleavings N] [--seed S]`: exits with 1 and how to play it again on a finding."""

import argparse
import resource
import sys
import time
import traceback
from pathlib import Path

import structlog

from tests.fuzz import attack

STEP = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=attack.__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="hostile messages to the decoder")
    parser.add_argument("--sessions", type=int, default=20_000, help="hostile streams through a hub")
    parser.add_argument("--interleavings", type=int, default=100_000, help="random conversations")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        told("inputs taken for a request", asked.inputs, lambda place, count: attack.bytes_in(asked.seed + place, count))
        told("sessions ended", asked.sessions, lambda place, count: attack.sessions(asked.seed + place, count))
        told("conversations", asked.interleavings, lambda place, count: conversations(asked.seed + place, count))
    except Exception:  # noqa: BLE001 - whatever it is, it is a finding
        traceback.print_exc()
        return 1
    return 0


def conversations(seed: int, count: int) -> int:
    for number in range(count):
        attack.conversation(seed + number)
    return count


def told(what: str, total: int, attempt) -> None:
    """Runs one attack in steps and prints its figures; the first step warms up and does not count as growth."""
    began, found, before = time.perf_counter(), 0, 0.0
    for place in range(0, total, STEP):
        found += attempt(place, min(STEP, total - place))
        if place == 0:
            before = resident_mib()
        print(f"\r{what}: {min(place + STEP, total)} of {total}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(
        f"{what}: {found} of {total} in {time.perf_counter() - began:.0f} s, no finding, memory {before:.0f} -> {resident_mib():.0f} MiB",
        flush=True,
    )


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    sys.exit(main())
