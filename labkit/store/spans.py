"""What the checks of a cell showed, run by run, in little room.

A run is a column: one byte for each check, in the order of their numbers. A check takes a span where it shows another
value than when it was last there; which checks a run had at all are bits. Together they are the columns again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from labkit.results.model import Result, Verdict

# A value is one byte: 0 where the run did not have the check, else 1 + the verdict's number here + these. The file
# keeps them: new verdicts go to the end.
_CODES = ("fail", "error", "timeout", "flaky", "todo", "no-assertions", "skip", "pass")
_NUMBERS = {Verdict(word): number for number, word in enumerate(_CODES)}
_EXPECTED, _VIOLATION = 16, 32


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run showed of one check: the verdict, and whether the policy expects it. violation: a requirement was
    violated, whatever the verdict says.
    """

    verdict: Verdict
    expected: bool = False
    violation: bool = False

    @property
    def bad(self) -> bool:
        return self.verdict.bad or self.violation

    @property
    def unexpected(self) -> bool:
        return self.bad and not self.expected


def seen_of(value: int) -> Seen | None:
    """What a byte of a column stands for; None where the run did not have the check."""
    return _SEEN[value]


def value_of(seen: Seen | None) -> int:
    """The inverse of seen_of()."""
    if seen is None:
        return 0
    return 1 + _NUMBERS[seen.verdict] + _EXPECTED * seen.expected + _VIOLATION * seen.violation


def encode(columns: Iterable[bytes]) -> Iterator[tuple[int, int, int]]:
    """The spans of columns: (test, start, value) where a check shows another value than when it was last there."""
    last = bytearray()
    before = b""
    for start, column in enumerate(columns):
        if column == before:
            continue
        last.extend(bytes(max(len(column) - len(last), 0)))
        for test, (old, new) in enumerate(zip(last, column, strict=False)):
            if new and new != old:
                last[test] = new
                yield test, start, new
        before = column


def decode(spans: Iterable[tuple[int, int, int]], present: Sequence[bytes]) -> list[bytes]:
    """The columns that spans, in any order, stand for; present has the bits of the checks of each."""
    size = max((len(bits) for bits in present), default=0) * 8
    starting: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for test, start, value in spans:
        if test < size:
            starting[start].append((test, value))
    shown, made, before = bytearray(size), b"", b""
    masks: dict[bytes, int] = {}
    columns = []
    for number, bits in enumerate(present):
        for test, value in starting.get(number, ()):
            shown[test] = value
        if number == 0 or number in starting or bits != before:
            if bits not in masks:
                masks[bits] = int.from_bytes(_mask(bits).ljust(size, b"\0"), "little")
            made = (int.from_bytes(shown, "little") & masks[bits]).to_bytes(size, "little")
            before = bits
        columns.append(made)
    return columns


_BYTE = [bytes(255 if byte >> bit & 1 else 0 for bit in range(8)) for byte in range(256)]


def _mask(bits: bytes) -> bytes:
    """A byte 0 or 255 for each bit."""
    return b"".join(_BYTE[byte] for byte in bits)


def bits_of(column: bytes) -> bytes:
    """Which bytes of a column are not 0, as bits."""
    bits = bytearray((len(column) + 7) // 8)
    for test, value in enumerate(column):
        if value:
            bits[test >> 3] |= 1 << (test & 7)
    return bytes(bits).rstrip(b"\0")


def seen_in(result: Result) -> Seen:
    """What a result shows."""
    if result.expected is None and not result.program:
        return _PLAIN[result.verdict]
    return Seen(result.verdict, result.bad and result.expected is not None, bool(result.violation))


_PLAIN = {verdict: Seen(verdict) for verdict in Verdict}


def _unpacked(value: int) -> Seen | None:
    code = (value - 1) & 15
    if not value or code >= len(_CODES):
        return None
    return Seen(Verdict(_CODES[code]), bool(value - 1 & _EXPECTED), bool(value - 1 & _VIOLATION))


# By value, for those who look at millions of them.
_SEEN = [_unpacked(value) for value in range(65)]
BAD = [seen is not None and seen.bad for seen in _SEEN]
UNEXPECTED = [seen is not None and seen.unexpected for seen in _SEEN]
FLAKY = [seen is not None and seen.verdict is Verdict.FLAKY for seen in _SEEN]


def urgency(value: int) -> tuple[bool, bool, int]:
    """The less, the worse: what is bad against the policy first."""
    return (not UNEXPECTED[value], not BAD[value], (value - 1) & 15)


def has(bits: bytes, test: int) -> bool:
    """Whether the bit of a test is set."""
    return test >> 3 < len(bits) and bool(bits[test >> 3] >> (test & 7) & 1)
