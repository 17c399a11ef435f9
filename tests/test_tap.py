from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from labkit.results import tap
from labkit.results.tap import BailOut, Block, Comment, Dropped, Limits, Plan, TestPoint, Unplaced, Version
from tests import fuzz_tap

SPEC_OUTPUT = b"""TAP version 14
1..3
# runtime: runc
ok 1 - STATE-001 state carries ociVersion, id, status, bundle
  ---
  id: "STATE-001"
  seconds: 0.25
  ...
not ok 2 - STATE-003 bundle is absolute
  ---
  id: "STATE-003"
  failures: [{"what": "bundle", "expected": "/b", "actual": "b # no directive"}]
  ...
ok 3 - CG-001 memory limit \\# one # SKIP needs cgroup v1
"""

# Shapes recorded from runtime-tools' validation programs.
ORPHAN = b"""TAP version 13
  ---
  {
    "error": "Hooks MUST be called in the listed order\\nRefer to: x"
  }
  ...
1..0
"""
STRAY = b"""TAP version 13
<nil>
ok 1 - state MUST generate an error
Refer to: runtime.md#query-state
  ---
  {
    "container ID": "2d8d",
    "stdout": "TAP version 13\\nok 1 - nested\\n  ---\\n  ...\\n1..1\\n"
  }
  ...
ok 2 # SKIP linux.sysctl not set
1..2
TAP version 13
not ok 1 - again
# expect: 1, actual: 2
1..1
"""


def test_the_spec_suite_output() -> None:
    assert tap.read(SPEC_OUTPUT) == [
        Version(14),
        Plan(3),
        Comment("runtime: runc"),
        TestPoint(
            True,
            1,
            "STATE-001 state carries ociVersion, id, status, bundle",
            diagnostic=Block({"id": "STATE-001", "seconds": 0.25}),
        ),
        TestPoint(
            False,
            2,
            "STATE-003 bundle is absolute",
            diagnostic=Block(
                {
                    "id": "STATE-003",
                    "failures": [{"what": "bundle", "expected": "/b", "actual": "b # no directive"}],
                }
            ),
        ),
        TestPoint(True, 3, "CG-001 memory limit # one", "SKIP", "needs cgroup v1"),
    ]


def test_a_point_comes_out_as_soon_as_its_block_ends() -> None:
    reader = tap.Reader()
    assert reader.feed(b"ok 1 - a\n") == []
    assert reader.feed(b'  ---\n  id: "A"\n  ...\n') == [TestPoint(True, 1, "a", diagnostic=Block({"id": "A"}))]


def test_a_block_without_a_test_line_is_kept() -> None:
    assert tap.read(ORPHAN) == [
        Version(13),
        Block({"error": "Hooks MUST be called in the listed order\nRefer to: x"}),
        Plan(0),
    ]


def test_stray_lines_nested_streams_and_second_streams() -> None:
    events = tap.read(STRAY)
    assert [type(event) for event in events] == [
        Version, Unplaced, TestPoint, Unplaced, Block, TestPoint, Plan, Version, TestPoint, Comment, Plan,
    ]  # fmt: skip
    assert events[4] == Block({"container ID": "2d8d", "stdout": "TAP version 13\nok 1 - nested\n  ---\n  ...\n1..1\n"})
    assert events[5] == TestPoint(True, 2, "", "SKIP", "linux.sysctl not set")


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b"ok", TestPoint(True, None, "")),
        (b"not ok 7", TestPoint(False, 7, "")),
        (b"ok 2 - issue #805 passes", TestPoint(True, 2, "issue #805 passes")),
        (b"not ok 4 - x # todo later", TestPoint(False, 4, "x", "TODO", "later")),
        (b"ok 4 - x # Skipped: why", TestPoint(True, 4, "x", "SKIP", "why")),
        (b"ok 4 - x # TODOs are listed", TestPoint(True, 4, "x # TODOs are listed")),
        (b"ok 1 - a\r", TestPoint(True, 1, "a")),
        (b"ok 1 - \xff", TestPoint(True, 1, "\ufffd")),
        (b"okay then", Unplaced("okay then")),
        (b"    ok 1 - subtest", Unplaced("    ok 1 - subtest")),
        (b"1..0 # SKIP no cgroup", Plan(0, "no cgroup")),
        (b"1.." + b"9" * 5000, Unplaced("1.." + "9" * 5000)),
        (b"Bail out! disk full", BailOut("disk full")),
        (b"pragma +strict", Unplaced("pragma +strict")),
    ],
)
def test_single_lines(line: bytes, event: tap.Event) -> None:
    assert tap.read(line) == [event]


@pytest.mark.parametrize(
    "inside", ["message: *all", "[1, 2", '{"a": 1', "x: " + "[" * 100_000, "x: " + "[" * 40 + "]" * 40]
)
def test_what_is_neither_json_nor_yaml_stays_as_text(inside: str) -> None:
    block = f'ok 1 - a\n  ---\n  id: "A"\n  {inside}\n  ...\n'.encode()
    assert tap.read(block) == [TestPoint(True, 1, "a", diagnostic=Block({"id": "A"}, f'id: "A"\n{inside}'))]


@pytest.mark.parametrize(
    "text",
    [
        b"ok 1 - a\n  ---\n  x: 1\n  ... \nok 2 - b\n  ---\n  y: 1\n  ...\n",  # the first end has a space after it
        b"ok 1 - a\r\n  ---\r\n  x: 1\r\n  ...\r\nok 2 - b\n  ---\n  y: 1\n  ...\n",
        b"ok 1 - a\n  ---\n  x: 1\n  ...\nok 2 - b\n   ---\n   y: 1\n   ...\n",
    ],
)
def test_a_block_ends_where_it_ends(text: bytes) -> None:
    blocks = [event.diagnostic for event in tap.read(text) if isinstance(event, TestPoint)]
    assert blocks == [Block({"x": 1}), Block({"y": 1})]


def test_what_follows_the_end_of_a_block_is_not_in_it() -> None:
    events = tap.read(b"ok 1 - a\n  ---\n  x: 1\n  ... \n  y: 1\n  ...\n")
    assert events[0] == TestPoint(True, 1, "a", diagnostic=Block({"x": 1}))
    assert events[1:] == [Unplaced("  y: 1"), Unplaced("  ...")]


def test_a_carriage_return_is_no_part_of_a_line_in_a_block() -> None:
    assert tap.read(b"  ---\n  words\r\n  ...\n") == [Block({}, "words")]


def test_a_block_that_does_not_end_does_not_swallow_the_next_result() -> None:
    first, second = tap.read(b'ok 1 - a\n  ---\n  id: "A"\nnot ok 2 - b\n')
    assert first == TestPoint(True, 1, "a", diagnostic=Block({"id": "A"}, whole=False))
    assert second == TestPoint(False, 2, "b")


def test_numbers_and_texts_that_would_break_a_later_writer_become_harmless() -> None:
    value = tap.parse_json("[NaN, -Infinity, 1e999, " + "9" * 5000 + ', "\\ud800", 18446744073709551615]')
    assert value == ["NaN", "-Infinity", "1e999", "9" * 5000, "\ufffd", 18446744073709551615]


def test_over_a_limit_is_dropped_and_said() -> None:
    limits = Limits(line=30, block=40, total=400, events=6)
    assert tap.read(b"ok 1 - " + b"x" * 100, limits) == [
        Dropped("the rest of a line of more than 30 bytes"),
        TestPoint(True, 1, "x" * 23),
    ]
    cut = tap.read(b"ok 1 - a\n  ---\n" + b'  k: "vvvvvvvvvv"\n' * 9 + b"  ...\n", limits)
    assert isinstance(cut[0], Dropped)
    kept = Block({"k": "vvvvvvvvvv"}, 'k: "vvvvvvvvvv"\nk: "vvvvvvvvvv"', whole=False)
    assert cut[1] == TestPoint(True, 1, "a", diagnostic=kept)
    assert tap.read(b"ok 1 - a\n  ---\n" + b'  k: "vvvvvvvvvv"\n' * 9 + b"  ...\n", Limits(block=40)) == cut
    many = tap.read(b"ok\n" * 20, limits)
    assert many == [TestPoint(True, None, "")] * 6 + [Dropped("everything after 6 events")]
    assert tap.read(b"#\n" + b"    \n" * 1000, limits)[-1] == Dropped("everything after 400 bytes")


def test_memory_stays_bounded() -> None:
    chunk = b"x" * (1 << 16)
    reader = tap.Reader(Limits(line=1 << 16, block=1 << 16, total=1 << 20))
    tracemalloc.start()
    try:
        reader.feed(b"ok 1 - a\n  ---\n")
        for _ in range(400):  # 25 MB in one line
            reader.feed(chunk)
        for _ in range(400):  # and 25 MB in short lines of a block
            reader.feed(b"  k: 1\n" * 9000)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


PIECES = [
    b"ok", b"not ok", b" 1", b" - STATE-001 x", b" # SKIP y", b"\n", b"\r\n", b"  ---\n", b"  ...\n", b"  ", b"1..2",
    b'  id: "A"\n', b'  {"a": [1]}\n', b"  k: [[\n", b"TAP version 14\n", b"Bail out!", b"#", b"\xff\x00", b"\xe2\x80",
]  # fmt: skip
outputs = st.one_of(st.binary(), st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(outputs, st.lists(st.integers(0, 400), max_size=20), st.sampled_from([None, Limits(20, 30, 200, 8)]))
@example(SPEC_OUTPUT, list(range(0, 400, 7)), None)
@example(STRAY, list(range(0, 400, 3)), Limits(20, 30, 200, 8))
def test_any_bytes_in_any_chunks_give_the_same_events(data: bytes, cuts: list[int], limits: Limits | None) -> None:
    reader = tap.Reader(limits)
    events: list[tap.Event] = []
    for start, end in itertools.pairwise([0, *sorted(cuts), max([*cuts, len(data)])]):
        events += reader.feed(data[start:end])
    events += reader.close()
    assert events == tap.read(data, limits)
    for event in events:
        if isinstance(event, Block):
            json.dumps(event.value, allow_nan=False)


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (SPEC_OUTPUT, None),
        (b"ok\nok\n1..2\n", None),
        (SPEC_OUTPUT.replace(b"1..3", b"1..4"), "3 of 4 results arrived"),
        (b"ok 1\n", "the output has no plan"),
        (b"", "the output has no plan"),
        (STRAY, "the output has 2 plans"),
        (b"1..1\nok 2\n", "result 1 is numbered 2"),
        (b"1..1\nok 1\nBail out! no more\n", "bailed out: no more"),
    ],
)
def test_complete_or_why_not(output: bytes, why: str | None) -> None:
    assert tap.unfinished(tap.read(output)) == why


def peak(feed: Callable[[tap.Reader], object]) -> tuple[int, list[tap.Event]]:
    """The most memory that reading took, in bytes, and the last events."""
    reader = tap.Reader()
    tracemalloc.start()
    try:
        feed(reader)
        last = reader.close()
        return tracemalloc.get_traced_memory()[1], last
    finally:
        tracemalloc.stop()


def test_a_stream_of_a_gigabyte_takes_little_memory_and_time() -> None:
    chunk = b"".join(b"ok %d - %s\n  ---\n  k: 1\n  ...\n" % (n, b"words " * 300) for n in range(1000))
    counted: list[tap.Event] = []

    def feed(reader: tap.Reader) -> None:
        for _ in range(-(-(1 << 30) // len(chunk))):
            counted.extend(reader.feed(chunk)[-1:])

    used, _ = peak(feed)
    assert used < 64 << 20
    assert counted[-1] == Dropped("everything after 16777216 bytes")


def test_a_line_of_ten_megabytes_is_cut() -> None:
    line = b"ok 1 - " + b"x" * 10_000_000
    used, last = peak(lambda reader: reader.feed(line))
    assert used < 8 << 20
    assert isinstance(last[0], Dropped) and isinstance(last[1], TestPoint)
    assert len(last[1].description) == (1 << 20) - 7


def test_plans_without_end_are_not_all_kept() -> None:
    plans = b"1..5\n" * 300_000
    kept: list[tap.Event] = []
    used, _ = peak(lambda reader: kept.extend(reader.feed(plans)))
    assert used < 64 << 20
    assert kept[-1] == Dropped("everything after 100000 events")
    assert "dropped everything after 100000 events" in (tap.unfinished(kept) or "")


@pytest.mark.parametrize(
    "piece", [b"  ---\n  x\nok\n", b"  ---\n", b"\n", b"  ---\n  [[[\n  ...\n", b"  ---\n" + b"  a: 1\n" * 99, b"\r\n"]
)
def test_no_shape_of_output_takes_long(piece: bytes) -> None:
    started = time.process_time()
    tap.read(piece * ((5 << 20) // len(piece)))
    assert time.process_time() - started < 6


def test_lines_taken_at_once_are_the_same_as_lines_one_by_one(recordings: dict[str, Path]) -> None:
    for path in (path for directory in recordings.values() for path in directory.glob("*.tap")):
        reader = tap.Reader()
        lines = path.read_bytes().splitlines(keepends=True)
        events = [event for line in lines for event in (*reader.feed(line[:-1]), *reader.feed(line[-1:]))]
        assert events + reader.close() == tap.read(path.read_bytes())


def test_mutations_of_recorded_output() -> None:
    assert fuzz_tap.rounds(2, seed=1) > 20


def test_a_dropped_end_is_not_complete() -> None:
    assert "over a size limit" in (tap.unfinished(tap.read(b"1..1\nok 1\n" + b"#\n" * 9, Limits(events=4))) or "")
