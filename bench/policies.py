"""What 1,000 policies cost to read and judge: a file each, all in one file, and again after one of them was edited."""

import statistics
import time

from policies.spec.loader import load

COUNT = 1000
RUNS = 3

PROXIES = b"""\
apiVersion: crossfade/v1
kind: Proxies
metadata: {name: edge}
spec:
  select: {cluster: edge}
  listeners: [{name: public, port: 8080}]
"""

ROLLOUT = """\
apiVersion: crossfade/v1
kind: Rollout
metadata: {name: chat-NUMBER, labels: {team: assistants}}
spec:
  traffic:
    proxies: edge
    listener: public
    match: [{host: chat-NUMBER.internal, path_prefix: /v1/}]
  variants:
    stable: {version: fp16, endpoints: {dns: chat-NUMBER-fp16.svc, port: 8000}, runtime: vllm}
    candidate: {version: int8, endpoints: {dns: chat-NUMBER-int8.svc, port: 8000}, runtime: vllm}
  assignment: {sticky: {header: x-user-id}}
  steps:
    - shadow: {share: 10%, hold: {for: 10m, samples: 2000}}
    - canary: {shares: [1%, 5%, 25%, 50%], hold: {for: 5m, samples: 500}}
    - promote: {keep_stable_for: 1h}
  gates:
    - {name: errors, metric: envoy/error_rate, margin: {absolute: 0.5%}}
    - {name: slow, metric: envoy/latency, statistic: p95, margin: {relative: 10%}}
  when: {no_data: {after: 5m, then: hold}, stuck: {after: 2h, then: revert}}
  lease: 30s
"""


def timed(work):
    """Seconds, median of runs."""
    seen = []
    for _ in range(RUNS):
        began = time.perf_counter()
        found = work()
        seen.append(time.perf_counter() - began)
        if found.errors or found.warnings or len(found.rollouts) != COUNT:
            raise RuntimeError(f"not what was meant to be measured: {found.errors[:1] or found.warnings[:1]}")
    return statistics.median(seen)


async def run():
    texts = [ROLLOUT.replace("NUMBER", str(number)).encode() for number in range(COUNT)]
    files = {"edge.yaml": PROXIES} | {f"chat-{number}.yaml": text for number, text in enumerate(texts)}
    one_file = {"edge.yaml": PROXIES, "chat.yaml": b"---\n".join(texts)}
    before = load(files)
    edited = files | {"chat-7.yaml": texts[7].replace(b"10m", b"20m")}
    figures = {
        "files_s": timed(lambda: load(files)),
        "one_file_s": timed(lambda: load(one_file)),
        "edited_s": timed(lambda: load(edited, before)),
    }
    size = sum(map(len, texts)) / 1e6
    print(f"{f'{COUNT:,} policies, a file each ({size:.1f} MB)':<52}{figures['files_s']:8.2f} s")
    print(f"{f'{COUNT:,} policies in one file':<52}{figures['one_file_s']:8.2f} s")
    print(f"{f'{COUNT:,} files of which one was edited':<52}{figures['edited_s'] * 1000:8.0f} ms")
    return figures
