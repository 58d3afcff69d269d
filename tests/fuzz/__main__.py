"""`python -m tests.fuzz`: a million hostile messages, hostile streams, random conversations, spoilt policies and HTTP/2 beside h2. 1 if something was found, with how to have it again."""

import argparse
import secrets
import sys
import time

import structlog

from tests.fuzz.run import ATTACKS, attack, rss_mib

MAX_FINDINGS = 5
MAX_GROWTH_MIB = 100
"""Nothing that was said may stay; caches have their bounds, and the allocator its habits."""


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="messages to decode")
    parser.add_argument("--sessions", type=int, default=20_000, help="hostile streams on a hub")
    parser.add_argument("--interleavings", type=int, default=100_000, help="conversations on one stream")
    parser.add_argument("--policies", type=int, default=20_000, help="sets of policy files")
    parser.add_argument("--wire", type=int, default=20_000, help="connections that speak HTTP/2, into ours and h2's")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="a former one, to have its findings again")
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    print(f"seed {chosen.seed}", flush=True)
    amounts = {
        "messages": chosen.inputs,
        "sessions": chosen.sessions,
        "conversations": chosen.interleavings,
        "policies": chosen.policies,
        "connections": chosen.wire,
    }
    findings = sum(run(kind, amount, chosen.seed) for kind, amount in amounts.items() if amount)
    print("nothing found" if not findings else f"{findings} findings; hint: --seed {chosen.seed} has them again")
    return int(findings > 0)


def run(kind, amount, seed):
    """All attacks of a kind, until there are more findings than anybody reads. How many findings.

    What is remembered is bounded and fills in the first half; in the second memory has to stand still.
    """
    size = ATTACKS[kind][1]
    batches = -(-amount // size)
    attack(kind, "warm", seed)
    before, begun, findings = rss_mib(), time.monotonic(), 0
    for number in range(batches):
        if number == batches // 2:
            before = rss_mib()
        words = attack(kind, number, seed)
        if words:
            findings += 1
            print(words, flush=True)
        if number % max(1, batches // 100) == 0:
            print(f"\r{kind}: {number * size:,} of {amount:,}, {findings} findings ", end="", file=sys.stderr, flush=True)
        if findings >= MAX_FINDINGS:
            break
    after, took_s = rss_mib(), time.monotonic() - begun
    print(f"\r{kind}: {(number + 1) * size:,} in {took_s:.0f} s, {findings} findings, memory {before:.0f} -> {after:.0f} MiB", flush=True)
    if after - before > MAX_GROWTH_MIB:
        print(f"{kind}: memory grew by more than {MAX_GROWTH_MIB} MiB in the second half")
        findings += 1
    return findings


if __name__ == "__main__":
    sys.exit(main())
