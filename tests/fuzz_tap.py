"""A fuzz target for the reading of output, in whatever dialect, and what is made of it: nothing raises, chunks make no
difference, and what happens to a file on its way hides no failure.

python tests/fuzz_tap.py CORPUS -max_total_time=60     guided by coverage (pip install atheris); CORPUS: any directory
python tests/fuzz_tap.py --random SECONDS              without it: random mutations of recorded output
"""

from __future__ import annotations

import contextlib
import random
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # run as a program, from anywhere

from tests import on_the_way, recorded

GUIDED = __name__ == "__main__" and sys.argv[1:2] != ["--random"]
if GUIDED:
    import atheris

    coverage = atheris.instrument_imports(include=["labkit.results"])
else:
    coverage = contextlib.nullcontext()
with coverage:
    from labkit.results import copies, dialects, tap, verdicts

SMALL = tap.Limits(line=64, block=128, total=2048, events=40)
# What is undone without a guess: after these, a failure is one still, whatever the bytes.
CERTAIN = ("a byte order mark", "CR LF")


def one_input(data: bytes) -> None:
    for limits in (None, SMALL):
        events = tap.read(data, limits)
        cut = tap.Reader(limits)
        bits = [event for at in range(0, len(data), 7) for event in cut.feed(data[at : at + 7])] + cut.close()
        assert bits == events
        verdicts.judge("fuzz", events, data.decode("utf-8", "replace"), verdicts.End(data[:1] == b"x"))
        tap.unfinished(events)
        pieces = dialects.read(data, limits).pieces
        assert pieces and sum(not piece.program for piece in pieces) <= 1
        verdicts.read("fuzz", data, "", verdicts.End(0), limits=limits)
    mended, notes = copies.mend(data)
    assert len(mended) <= 4 * len(data) + 16
    copies.told(("fuzz.tap", note) for note in notes)
    change = CERTAIN[zlib.crc32(data) % len(CERTAIN)]
    if bad(data):
        assert bad(on_the_way.CHANGES[change](data)), change


def bad(data: bytes) -> bool:
    """Whether something in the output is wrong, or shows nothing."""
    judged = verdicts.read("fuzz", data, "", verdicts.End(0)).judged
    results = [result for one in judged for result in one.results]
    return not results or any(result.bad or result.verdict == "no-assertions" for result in results)


def seeds() -> list[bytes]:
    heads = [
        path.read_bytes()[:2000]
        for directory in recorded.RECORDINGS.values()
        for path in sorted(directory.glob("*.tap"))
    ]
    others = list(recorded.DIALECTS.values())
    changed = [change(text) for change in on_the_way.CHANGES.values() for text in (heads[1][:600], others[2])]
    cases = [path.read_bytes() for path in sorted(recorded.CASES.rglob("*.tap"))]
    return [*heads, *others, *changed, *cases]


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
