"""A fuzz target for the TAP reader and what is made of its events: nothing raises, and chunks make no difference.

python tests/fuzz_tap.py CORPUS -max_total_time=60     guided by coverage (pip install atheris); CORPUS: any directory
python tests/fuzz_tap.py --random SECONDS              without it: random mutations of recorded output
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a program, from anywhere

from tests import recorded

GUIDED = __name__ == "__main__" and sys.argv[1:2] != ["--random"]
if GUIDED:
    import atheris

    coverage = atheris.instrument_imports(include=["labkit.results.tap", "labkit.results.verdicts"])
else:
    coverage = contextlib.nullcontext()
with coverage:
    from labkit.results import tap, verdicts

SMALL = tap.Limits(line=64, block=128, total=2048, events=40)


def one_input(data: bytes) -> None:
    for limits in (None, SMALL):
        events = tap.read(data, limits)
        cut = tap.Reader(limits)
        bits = [event for at in range(0, len(data), 7) for event in cut.feed(data[at : at + 7])] + cut.close()
        assert bits == events
        verdicts.judge("fuzz", events, data.decode("utf-8", "replace"), verdicts.End(data[:1] == b"x"))
        tap.unfinished(events)


def seeds() -> list[bytes]:
    return [
        path.read_bytes()[:2000]
        for directory in recorded.RECORDINGS.values()
        for path in sorted(directory.glob("*.tap"))
    ]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Lines of a recording shuffled, doubled, dropped, with bytes changed here and there."""
    lines = data.split(b"\n")
    for _ in range(chance.randrange(8)):
        at = chance.randrange(len(lines))
        lines[at : at + chance.randrange(3)] = chance.choices(lines, k=chance.randrange(4)) or [b""]
    found = bytearray(b"\n".join(lines))
    for _ in range(chance.randrange(6)):
        if found:
            found[chance.randrange(len(found))] = chance.randrange(256)
    return bytes(found)


def rounds(seconds: float, seed: int, test: Callable[[bytes], None] = one_input) -> int:
    """Try mutations for some seconds; how many there were."""
    chance, known, count = random.Random(seed), seeds(), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        test(mutated(chance.choice(known), chance))
        count += 1
    return count


if GUIDED:
    corpus = Path(sys.argv[1])
    corpus.mkdir(exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
elif __name__ == "__main__":
    print(f"{rounds(float(sys.argv[2]), seed=time.time_ns())} inputs")
