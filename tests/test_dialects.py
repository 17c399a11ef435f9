"""What a file of output is read as: dialects, and what happened to it on its way. docs/reference/dialects.md."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.results import copies, dialects, tap, verdicts
from labkit.results.model import Result, Verdict
from labkit.results.values import parse_yaml
from labkit.results.verdicts import End, File
from labkit.suites import refs
from labkit.suites.spec import from_tap
from tests import on_the_way
from tests.recorded import DIALECTS, RECORDINGS

Shown = dict[str, dict[str, str]]


def read(output: str | bytes, end: End | None = End(0), name: str = "prog") -> File:  # noqa: B008
    data = output.encode() if isinstance(output, str) else output
    return verdicts.read(name, data, "", end, silent=name in refs.data().silent)


def shown(file: File) -> Shown:
    """The verdict of each result, by program and name."""
    return {one.program.name: {result.name: result.verdict.value for result in one.results} for one in file.judged}


def bad(file: File) -> bool:
    results = [result for one in file.judged for result in one.results]
    return any(result.bad or result.verdict is Verdict.NO_ASSERTIONS for result in results)


# --- dialects

READ_AS = {
    "bats": ("bats", {"prog": {"create": "pass", "delete": "fail", "hooks": "skip", "kill": "timeout"}}),
    "contest": (
        "youki's contest, which is no TAP",
        {"prog": {"hooks": "pass", "hooks: prestart": "fail", "net": "skip"}},
    ),
    "crun": ("the TAP of crun's Python tests", {"prog": {"no-caps": "pass", "bounding": "fail", "ambient": "skip"}}),
    "head": ("files put after each other", {"create": {"a": "pass"}, "delete": {"b": "fail"}}),
    "kselftest": (
        "KTAP",
        {
            "prog": {
                "selftests: cgroup: core > a": "pass",
                "selftests: cgroup: core > b": "fail",
                "selftests: cgroup: kill": "timeout",
            }
        },
    ),
    "ktap": ("KTAP", {"prog": {"s > a": "pass", "s > b": "timeout", "t": "skip"}}),
    "node-tap": (
        "node-tap",
        {"create": {"a": "pass"}, "delete": {"b": "pass", "c": "fail"}, "kill": {"(program)": "skip"}},
    ),
    "prove": ("prove", {"create": {"a": "pass"}, "delete": {"b": "fail", "c": "pass"}, "kill": {"(program)": "skip"}}),
    "prove-quiet": (
        "prove",
        {
            "create": {"its tests, as prove counts them": "pass"},
            "delete": {"its tests, as prove counts them": "fail"},
            "kill": {"(program)": "skip"},
        },
    ),
    "tap14": (
        "TAP 14 with subtests",
        {
            "prog": {
                "hooks > prestart": "pass",
                "hooks > deeper > leaf": "pass",
                "mounts > bind": "fail",
                "plain": "pass",
            }
        },
    ),
    "yaml": ("", {"prog": {"a": "fail"}}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_each_dialect_has_its_name_and_its_results(name: str) -> None:
    file = read(DIALECTS[name], End(1) if name.startswith("prove") else End(0))
    assert (file.dialect, shown(file)) == READ_AS[name]
    assert file.notes == ()


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_dialect_that_is_cut_off_anywhere_shows_no_success(name: str) -> None:
    """The failure in it is seen once its line is there; before that, something is missing."""
    data = DIALECTS[name]
    for end in range(1, len(data)):
        cut = data[:end]
        if name in ("bats", "crun", "tap14", "yaml", "ktap", "kselftest", "node-tap", "contest") or b"not ok" in cut:
            assert bad(read(cut, End(unknown=True))), cut


@pytest.mark.parametrize("change", ["github", "gitlab", "jenkins", "a mail", "CR LF", "UTF-16", "colours", "4 spaces"])
@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_a_dialect_is_known_in_a_log_too(name: str, change: str) -> None:
    changed = read(on_the_way.CHANGES[change](DIALECTS[name]))
    if name in ("contest", "prove-quiet") and change not in ("CR LF", "UTF-16"):
        assert bad(changed)  # no line of it is TAP, so what is before the lines is not known
    else:
        assert shown(changed) == shown(read(DIALECTS[name]))


def results(file: File) -> list[Result]:
    return [result for one in file.judged for result in one.results]


def test_what_yaml_says_comes_under_the_names_that_reports_know() -> None:
    (result,) = results(read(DIALECTS["yaml"]))
    assert result.diagnostic["message"] == "it is not"
    assert (result.diagnostic["expected"], result.diagnostic["actual"]) == ([1], [1, 2])


def test_seconds_are_read_and_are_no_part_of_a_name() -> None:
    assert [result.seconds for result in results(read(DIALECTS["bats"]))] == [0.012, 0.812, 0, 30.002]
    assert [one.program.seconds for one in read(DIALECTS["node-tap"]).judged] == [0.8124, 2.21012, 0]


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("ok 1 - x {\n    not ok 1 - y\n    1..1\n}\n1..1\n", "it says ok, and below it is `not ok 1 y`"),
        ("ok 1 - x {\n}\n1..1\n", "it says ok, and nothing is below it"),
        ("ok 1 - x {\n    1..0\n}\n1..1\n", "it says ok, and nothing is below it"),
        ("ok 1 - x {\n    ok 1 - y\n}\n1..1\n", "it says ok, and below 'x': no plan"),
        ("    ok 1 - y\n    1..2\nok 1 - x\n1..1\n", "it says ok, and below 'x': 1 of 2 results"),
        ("KTAP version 1\n1..1\n# not ok 1 y\n# 1..1\nok 1 x\n", "it says ok, and below it is `not ok 1 y`"),
        ("    ok 1 - x {\n        not ok 1\n        1..1\n    }\n    1..1\nok 1 - w\n1..1\n", "it says ok, and below"),
    ],
)  # fmt: skip
def test_ok_over_what_is_not_is_bad_and_told(output: str, why: str) -> None:
    file = read(output)
    found = [str(one.diagnostic.get("message", "")) for one in results(file) if one.verdict is Verdict.ERROR]
    assert any(message.startswith(why.replace("'x'", "x")) for message in found), found
    assert file.notes[0].what == "a result says ok over others that do not"


@pytest.mark.parametrize(
    "output",
    [
        "1..1\nok 1 - a\n    not ok 1 - b\n    1..1\n",  # the line that sums it up never came
        "1..2\nok 1 - a\nrunner: not ok 2 - b\nok 2 - c\n",
        "1..1\nok 1 - a\n# not ok 1 - b\n",
        "1..1\n# not ok 1 - b\nok 1 - a\n",
        "ok 1 - a\n1..1\nFAIL? it is not ok\n",
    ],
)
def test_a_not_ok_that_is_no_result_is_no_pass(output: str) -> None:
    assert read(output).judged[0].program.verdict is Verdict.ERROR


def test_a_not_ok_beside_a_failure_is_about_that() -> None:
    assert read("1..2\nnot ok 1 - a\n# not ok 1 - b\nok 2 - c\n").judged[0].program.verdict is Verdict.FAIL


_NONE = "no-assertions"


@pytest.mark.parametrize(
    ("stream", "end", "verdicts_"),
    [
        ("ok 1 - a/a.t {\n    ok 1 - x\n    1..1\n}\n1..2\n", End(0), {"a": "pass", "prog": "error"}),
        ("ok 1 - a/a.t {\n    ok 1 - x\n    1..1\n}\n1..1\n", End(1), {"a": "pass", "prog": "error"}),
        ("not ok 1 - a/a.t {\n    not ok 1 - x\n    1..1\n}\n1..1\n", End(1), {"a": "fail"}),
        ("not ok 1 - a/a.t {\n    ok 1 - x\n    1..1\n}\n1..1\n", End(1), {"a": "error"}),
        ("ok 1 - a/a.t {\n    not ok 1 - x\n    1..1\n}\n1..1\n", End(0), {"a": "error"}),
        ("ok 1 - a/a.t {\n    ok 1 - x\n    1..1\n}\nok 2 - b/b.t\n1..2\n", End(0), {"a": "pass", "b": _NONE}),
        ("ok 1 - a/a.t {\n    ok 1 - x\n    1..1\n}\n1..1\n", None, {"a": "pass", "prog": "error"}),
        ("a.t .. \nok 1 - x\n1..1\nok\nb.t .. \nDubious, test returned 0 (wstat 11, 0xb)\nResult: FAIL\n", End(1),
         {"a": "pass", "b": "error"}),
        ("a.t .. \nok 1 - x\n1..1\nok\nResult: FAIL\n", End(1), {"a": "pass", "prog": "error"}),
        ("a.t .. \nnot ok 1 - x\n1..1\nok\nResult: PASS\n", End(0), {"a": "error"}),
        ("a.t .. \nok 1 - x\n1..1\nok\n", End(0), {"a": "pass", "prog": "error"}),
    ],
)  # fmt: skip
def test_programs_in_one_stream_are_judged_each_and_all_together(
    stream: str, end: End | None, verdicts_: dict[str, str]
) -> None:
    found = {one.program.name: one.program.verdict.value for one in read(stream, end).judged}
    # What an `ok` over a failure makes of a program: the failure, and that it was hidden.
    assert {
        name: "error" if word == "fail" and verdicts_[name] == "error" else word for name, word in found.items()
    } == verdicts_


def test_programs_of_one_name_keep_their_paths() -> None:
    stream = "==> a/test.tap <==\nok 1\n1..1\n==> b/test.tap <==\nok 1\n1..1\n"
    assert list(shown(read(stream))) == ["a/test.tap", "b/test.tap"]


def test_a_word_before_dots_makes_no_prove_of_tap() -> None:
    file = read("1..1\nLoading ... ok\nwait ..\nok 1 - a\n")
    assert (file.dialect, shown(file)) == ("", {"prog": {"a": "pass"}})


# --- what happened on its way

FILES = [
    (path.stem, path.read_bytes()) for directory in RECORDINGS.values() for path in sorted(directory.glob("*.tap"))
]
WITH_LINES_OF_ITS_OWN = ("script", "fenced")  # so that silence is none any more


def outcome(file: File) -> list[tuple[str, Verdict, list[tuple[str, Verdict, str]]]]:
    return [
        (one.program.name, one.program.verdict, [(r.id, r.verdict, r.violation) for r in one.results])
        for one in file.judged
    ]


@pytest.mark.parametrize("change", sorted(on_the_way.CHANGES))
def test_what_happens_on_the_way_changes_no_verdict(change: str) -> None:
    small = [file for file in FILES if len(file[1]) < 20_000]
    for name, data in random.Random(change).sample(small, 30):
        before, after = read(data, name=name), read(on_the_way.CHANGES[change](data), name=name)
        if data.strip() or change not in WITH_LINES_OF_ITS_OWN:
            assert outcome(after) == outcome(before), name
        assert bad(after) or not bad(before), name


def test_what_is_undone_is_told_and_what_is_plain_is_left_alone() -> None:
    plain = FILES[0][1]
    assert copies.mend(plain) == (plain, ())
    silent = {"CR LF", "CR CR LF", "fenced", "script"}
    for name, change in on_the_way.CHANGES.items():
        assert bool(copies.mend(change(plain))[1]) == (name not in silent), name


@pytest.mark.parametrize("change", sorted(on_the_way.PREFIXES))
def test_a_log_with_lines_of_its_own_around_is_read(change: str) -> None:
    """Half of a log is not the output: what ran before and after it."""
    prefix = on_the_way.PREFIXES[change]
    output = ["TAP version 13", "ok 1 - a", "  ---", '  {"x": 1}', "  ...", "not ok 2 - b", "1..2"]
    lines = ["Run make localvalidation", "ok, go:", *output, "", "Done."]
    text = "".join(f"{prefix(count)}{line}\n" for count, line in enumerate(lines))
    assert shown(read(f"## a heading\n{text}")) == {"prog": {"a": "pass", "b": "fail"}}


@given(st.integers(), st.sampled_from(sorted(on_the_way.CHANGES)), st.sampled_from(sorted(on_the_way.CHANGES)))
@settings(max_examples=150, deadline=None)
def test_two_changes_after_each_other_hide_no_failure(seed: int, first: str, second: str) -> None:
    name, data = random.Random(seed).choice(FILES)
    if bad(read(data, name=name)):
        assert bad(read(on_the_way.CHANGES[second](on_the_way.CHANGES[first](data)), name=name))


@given(st.integers(), st.sampled_from(sorted(on_the_way.CHANGES)))
@settings(max_examples=150, deadline=None)
def test_a_change_that_meets_part_of_a_file_hides_no_failure(seed: int, change: str) -> None:
    """Two logs in one file, or a log that begins to tell the time in the middle."""
    chance = random.Random(seed)
    name, data = chance.choice([file for file in FILES if b"\nnot ok" in file[1]])
    lines = data.splitlines(keepends=True)
    start = chance.randrange(len(lines))
    end = chance.randrange(start, len(lines)) + 1
    if "UTF" in change:
        start, end = 0, len(lines)
    part = on_the_way.CHANGES[change](b"".join(lines[start:end]))
    assert bad(read(b"".join(lines[:start]) + part + b"".join(lines[end:]), name=name))


def test_told_names_the_file_or_counts_them_and_shows_the_first_line() -> None:
    def note(line: str = "") -> copies.Note:
        return copies.Note("each line begins with a time; it was left out", line)

    assert copies.told([("a.tap", note("12:00 ok"))]) == (
        "a.tap: each line begins with a time; it was left out: 12:00 ok",
    )
    two = copies.told([("a.tap", note("x")), ("b.tap", note("y")), ("c.tap", copies.Note("in UTF-16"))])
    assert two == ("2 files: each line begins with a time; it was left out: x", "c.tap: in UTF-16")
    assert copies.told([("a.tap", copies.Note("w", "\x1b[31m"))]) == (r"a.tap: w: \x1b[31m",)


def test_what_is_no_tap_is_told_with_its_first_line() -> None:
    file = read("\n  everything went well\nbye\n")
    assert file.notes == (copies.Note("no TAP is in it", "everything went well"),)
    assert file.judged[0].program.verdict is Verdict.NO_ASSERTIONS


SPEC = (
    "TAP version 13\n# runtime: runc\n1..2\nok 1 - CREATE-001 a\n  ---\n  id: \"CREATE-001\"\n  level: \"MUST\"\n"
    "  ...\nnot ok 2 - CREATE-002 b\n  ---\n  id: \"CREATE-002\"\n  verdict: \"error\"\n  ...\n"
)  # fmt: skip


@pytest.mark.parametrize("change", sorted(on_the_way.CHANGES))
def test_the_spec_suites_output_is_mended_too(change: str, tmp_path: Path) -> None:
    from labkit.suites.spec import SUITE

    (tmp_path / "spec.tap").write_bytes(on_the_way.CHANGES[change](SPEC.encode()))
    reading, plain = SUITE.read(tmp_path), from_tap(tap.read(SPEC.encode()))
    assert (reading.results, reading.reason, dict(reading.facts)) == (plain.results, None, {"runtime": "runc"})
    assert bool(reading.told) == (change not in ("CR LF", "CR CR LF", "script", "fenced"))


def test_a_failure_in_a_line_that_the_spec_suite_did_not_write_makes_it_incomplete() -> None:
    assert "`not ok`" in str(from_tap(tap.read(b"1..1\nok 1 - a\nx: not ok 2 - b\n")).reason)


# --- bounds


@pytest.mark.parametrize(
    "hostile",
    [
        b"    ok 1\n" * 50_000,
        b"".join(b" " * (4 * depth) + b"ok 1 - x {\n" for depth in range(2000)),
        b"ok 1 {\n" * 50_000,
        b"# ok 1\n" * 50_000 + b"KTAP version 1\n",
        b"KTAP version 1\n" + b"# " * 20_000 + b"ok 1\n",
        b"1 / 1 : x : not ok\n" * 50_000,
        b"==> x <==\n" * 20_000,
        b"x.t .. \n" * 20_000 + b"y.t .. \n",
        b"".join(b"x%d.t .. \n" % n for n in range(20_000)),
        b"\x1b]8;;" * 50_000,
        b"[" * 300_000,
        b'{"log": "' * 20_000 + b"\n",
        b"2026-03-01 " * 30_000 + b"ok 1 - x\n",
        b"1" * 300_000 + b" ok 1 - x\n",
        b" \t" * 100_000 + b"ok 1 - x\n",
        (b"a b c d ok 1 - x\n" * 300 + b"\n") * 50,
        b"\xff\xfe" + b"o\0k\0" * 50_000,
        b"\r" * 200_000,
        b"ok 1 - a\n  ---\n  a: &a [x]\n" + b"  b: *a\n" * 1000 + b"  ...\n",
        b"ok 1 - a\n  ---\n  " + b"[" * 50_000 + b"\n  ...\n1..1\n",
        b"ok 1 - a\n  ---\n" + b"  - x\n" * 15_000 + b"  ...\n1..1\n",
    ],
)
def test_hostile_output_takes_no_time_to_speak_of(hostile: bytes) -> None:
    started = time.process_time()
    read(hostile)
    assert time.process_time() - started < 5


def test_an_event_limit_holds_for_all_pieces_together() -> None:
    pieces = dialects.read(b"==> a <==\nok 1\n==> b <==\n" + b"ok 1\n" * 100, tap.Limits(events=20)).pieces
    assert sum(len(piece.events) for piece in pieces) <= 22
    assert isinstance(pieces[-1].events[-1], tap.Dropped)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 2.5, true, ~]\n", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("c:\n  - no\n  - 12:30\n  - 2026-03-01\n", {"c": ["no", "12:30", "2026-03-01"]}),
        ("output: |\n  ok 9\n  two\n", {"output": "ok 9\ntwo\n"}),
        ("'1': \"1\"\nx: 1e400\n", {"1": "1", "x": "1e400"}),
        ("- 1\n- - 2\n", [1, [2]]),
    ],
)  # fmt: skip
def test_yaml_is_read_as_its_core_schema_has_it(text: str, value: object) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x\n", "a: !!python/object:os.system x\n", "a: !x y\n", "a: 1\na: 2\n", "? [a]\n: b\n",
        "a: " + "[" * 40 + "]" * 40, "[" * 100_000, "- x\n" * 6000, "a: '\x00'\n", "\ud800: x", "a: b: c", "",
        "x" * 70_000, "a: [1\n",
    ],
)  # fmt: skip
def test_yaml_that_is_damaged_or_makes_much_of_little_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


# --- names


def named(name: str) -> tuple[str, str, str]:
    return Result("", name, "", "", Verdict.PASS, 0.0, program="p").identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no-caps # 0.041s", "no-caps # 0.052s"),
        ("create in 12ms", "create in 813ms"),
        ("x (duration 3s)", "x (duration 14s)"),
        ("took 12 ms to stop", "took 1.5 ms to stop"),
        ("at 0xc000123400", "at 0x7ffd0012"),
        ("pid 4242 is gone", "pid 17 is gone"),
        ("reads /proc/4242/status", "reads /proc/99/status"),
        ("bundle /tmp/ocitest062540744/config.json", "bundle /tmp/ocitest1/config.json"),
        ("bundle /var/tmp/tmp.AbCdEf1234 is there", "bundle /tmp/x is there"),
        ("since 2026-03-01T09:12:44Z", "since 2026-03-02T19:00:00.123Z"),
        ("listens on 127.0.0.1:41234", "listens on 127.0.0.1:9"),
        ("id " + "0a" * 32, "id " + "1b" * 32),
    ],
)
def test_what_a_run_makes_up_is_no_part_of_an_identity(one: str, other: str) -> None:
    if other.endswith(":9"):
        other += "999"
    assert named(one) == named(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("maps to 1000", "maps to 2000"),
        ("limit of 10 MB", "limit of 20 MB"),
        ("RLIMIT_NOFILE 3999", "RLIMIT_NOFILE 3000"),
        ("/proc/1/status", "/proc/self/status"),
        ("mount /tmpfs-a", "mount /tmpfs-b"),
        ("kills 2 processes", "kills 3 processes"),
        ("issue #805", "issue #806"),
        ("stops", "starts"),
    ],
)
def test_what_tells_two_checks_apart_is_part_of_it(one: str, other: str) -> None:
    assert named(one) != named(other)


def test_the_page_on_dialects_names_each() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/dialects.md").read_text()
    for name in {dialect for dialect, _ in READ_AS.values()} - {""}:
        assert f"| {name} |" in page, name
    assert set(re.findall(r"^\| ([^|]+) \| .* \|$", page.split("## On its way")[0], re.MULTILINE)) - {
        "dialect",
        "---",
    } == {dialect for dialect, _ in READ_AS.values()} - {""}
