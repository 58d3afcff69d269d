"""`python -m tests.fuzz.wire_guided FOLDER -max_total_time=600`: looks for bytes that take new ways through `xds_server.wire` (needs atheris).

The judge is that of `tests.fuzz.wire`. FOLDER gets what takes a new way; libFuzzer's options follow it. `-merge=1 tests/fixtures/wire_corpus
FOLDER` keeps of that what the tree needs, which `tests/fuzz/test_fuzz.py` replays. Instrumented code is a tenth as fast.
"""

import random
import sys

import atheris

with atheris.instrument_imports(include=["xds_server.wire"]):
    from tests.fuzz.wire import PREFACE, compare, cut, frames_of

from hpack import Encoder

from tests.fuzz.talker import Talker

MAX_BYTES = 4000


def judge(data):
    """Frames into ours and h2's, the same in pieces, and what is no whole frame at the end besides."""
    compare(frames_of(data))
    cut(PREFACE + data, random.Random(len(data)))


def mutate(data, max_size, seed):
    """Whole frames come, go, are repeated, trade places, or have their payload changed; the length stays true."""
    chance = random.Random(seed)
    frames = frames_of(data)
    talker = Talker(chance)
    talker.encoder = Encoder()
    talker.encoder.header_table_size = 0
    talker.next = chance.choice((1, 3, 5, 7))
    talker.open = [1, 3, 5]
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(frames) + 1)
        match chance.randrange(6):
            case 0 | 1:
                frames[at:at] = talker.step()
            case 2 if frames:
                del frames[at : at + chance.choice((1, 1, 3))]
            case 3 if frames:
                frames.insert(at, chance.choice(frames))
            case 4 if frames:
                other = chance.randrange(len(frames))
                frames[other], frames[at - 1] = frames[at - 1], frames[other]
            case 5 if frames:
                old = frames[at - 1]
                payload = atheris.Mutate(old[9:], len(old) + 20)
                frames[at - 1] = len(payload).to_bytes(3, "big") + talker.spoilt(old[:9])[3:] + payload
            case _:
                return atheris.Mutate(data, max_size)
    return b"".join(frames)[:max_size]


if __name__ == "__main__":
    if not any(argument.startswith("-max_len") for argument in sys.argv):
        sys.argv.append(f"-max_len={MAX_BYTES}")
    atheris.Setup(sys.argv, judge, custom_mutator=mutate)
    atheris.Fuzz()
