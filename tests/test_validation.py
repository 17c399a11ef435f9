"""The validation suite: what it prints sorted into files, and those files, or a recording, read."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.results.model import Reading, Result, Verdict
from labkit.suites import recordings, registry
from labkit.suites.validation import SUITE

SEVEN = ["hooks", "poststart", "poststart_fail", "poststop", "poststop_fail", "prestart", "prestart_fail"]
ERRORS = {
    "master": [
        *("linux_cgroups_blkio", "linux_cgroups_hugetlb", "linux_cgroups_network", "linux_mount_label"),
        *("linux_process_apparmor_profile", "process_capabilities", "process_capabilities_fail"),
    ],
    "v0.9.0": [
        *("delete_only_create_resources", "linux_cgroups_blkio", "linux_cgroups_hugetlb", "linux_cgroups_network"),
        *("linux_process_apparmor_profile", "linux_seccomp", "process_capabilities_fail"),
    ],
}


# --- recordings

OVER = {"v0.9.0": {"linux_seccomp": 1}}  # lines that say ok over a runtimetest that ended early, which is an error


def counted(path: Path) -> Counter[str]:
    """The independent count: lines that begin with ok or not ok at column 0."""
    lines = re.findall(r"^(not ok|ok)\b(.*)$", path.read_text(), re.MULTILINE)
    return Counter("skip" if "# SKIP" in rest else {"ok": "pass", "not ok": "fail"}[word] for word, rest in lines)


@pytest.mark.parametrize("name", ["master", "v0.9.0"])
def test_a_recording_is_read_exactly(name: str, recordings: dict[str, Path]) -> None:
    directory = recordings[name]
    reading = SUITE.read(directory)
    assert len(reading.programs) == 58
    for program in reading.programs:
        mine = Counter(r.verdict.value for r in reading.results if r.program == program.name and not r.whole)
        printed = counted(directory / f"{program.name}.tap")
        over = OVER.get(name, {}).get(program.name, 0)
        assert mine == printed + Counter(error=over) - Counter({"pass": over}), program.name
    total = sum(map(counted, directory.glob("*.tap")), Counter())
    assert (
        total
        == {"master": {"pass": 3275, "fail": 35, "skip": 427}, "v0.9.0": {"pass": 3445, "fail": 40, "skip": 473}}[name]
    )
    by_verdict = {v: sorted(p.name for p in reading.programs if p.verdict is v) for v in Verdict}
    assert by_verdict[Verdict.NO_ASSERTIONS] == SEVEN
    assert by_verdict[Verdict.ERROR] == ERRORS[name]
    assert len(by_verdict[Verdict.FAIL]) == 18
    assert "process_rlimits_fail" in by_verdict[Verdict.PASS]
    assert reading.reason is None
    cgroup = {"master": "v1", "v0.9.0": "v2"}[name]
    assert reading.facts == {"ref": name, "spec": {"master": "1.3.0", "v0.9.0": "1.0.1"}[name], "cgroup": cgroup}


def test_the_violations_that_no_assertion_tells_are_found(recordings: dict[str, Path]) -> None:
    found = {r.program: r.violation for r in SUITE.read(recordings["master"]).results if r.violation}
    assert sorted(found) == [
        "hooks",
        "poststart",
        "poststart_fail",
        "poststop_fail",
        "prestart",
        "process_capabilities_fail",
    ]
    assert found["prestart"] == "Pre-start hooks MUST be called after the `start` operation is called"


def test_nothing_of_a_recording_is_left_lying(recordings: dict[str, Path]) -> None:
    """Every block is with a result: what an assertion lacks of keys, its program as a whole has."""
    for directory in recordings.values():
        blocks = sum(path.read_text().count("\n  ---\n") for path in directory.glob("*.tap"))
        results = SUITE.read(directory).results
        own = {"notes", "reason", "message"}
        with_block = sum(bool(r.reference or r.diagnostic.keys() - own) for r in results if not r.whole)
        orphans = sum(len(r.diagnostic.get("blocks", ())) for r in results)  # type: ignore[arg-type, misc]
        comments = sum(path.read_text().count("\n# expect: ") for path in directory.glob("*.tap"))
        assert with_block - comments + orphans == blocks


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    for path in target.iterdir():
        path.chmod(0o644)
    return target


def test_a_missing_program_is_incomplete(recordings: dict[str, Path], tmp_path: Path) -> None:
    directory = copy(recordings["master"], tmp_path / "x")
    (directory / "create.tap").unlink()
    summary = (directory / "summary.tsv").read_text()
    (directory / "summary.tsv").write_text(re.sub("^create\t.*\n", "", summary, flags=re.MULTILINE))
    assert SUITE.read(directory).reason == "1 program missing: create"


def test_missing_output_is_not_taken_for_empty_output(recordings: dict[str, Path], tmp_path: Path) -> None:
    directory = copy(recordings["master"], tmp_path / "x")
    (directory / "process_rlimits_fail.tap").unlink()
    reading = SUITE.read(directory)
    assert reading.reason == "1 program missing: process_rlimits_fail"
    assert len(reading.programs) == 57


def test_a_program_without_an_end_is_incomplete_and_an_error(recordings: dict[str, Path], tmp_path: Path) -> None:
    directory = copy(recordings["master"], tmp_path / "x")
    summary = (directory / "summary.tsv").read_text()
    (directory / "summary.tsv").write_text(re.sub("^create\t.*\n", "", summary, flags=re.MULTILINE))
    reading = SUITE.read(directory)
    assert reading.reason == "1 program not finished: create"
    assert next(p.verdict for p in reading.programs if p.name == "create") is Verdict.ERROR


def test_without_a_summary_the_output_alone_is_judged(recordings: dict[str, Path], tmp_path: Path) -> None:
    directory = copy(recordings["master"], tmp_path / "x")
    (directory / "summary.tsv").unlink()
    reading = SUITE.read(directory)
    assert "exit statuses are unknown" in (reading.reason or "")
    assert len(reading.results) > 3700


def test_what_is_known_of_the_ref_beats_what_is_guessed(recordings: dict[str, Path]) -> None:
    assert SUITE.read(recordings["master"], {"ref": "a1b2c3"}).facts["ref"] == "a1b2c3"


# --- wrong input

HEADER = "program\texit_status\tseconds\n"


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ("", ":1: the columns must be program, exit_status and seconds"),
        ("program exit_status seconds\n", ":1: the columns must be"),
        ("exit_status\tseconds\n0\t1\n", ":1: the columns must be"),
        (HEADER + "create\t0\n", ":2: 2 columns, must be 3"),
        (HEADER + "create\t0\t1\nstart\tzero\t1\n", ":3: exit_status is 'zero', must be a number up to 255"),
        (HEADER + "create\t-65\t1\n", ":2: exit_status is '-65'"),
        (HEADER + "create\t256\t1\n", ":2: exit_status is '256'"),
        (HEADER + "create\t0\tnan\n", ":2: seconds is 'nan', must be a number"),
        (HEADER + "../..\t0\t1\n", ":2: program is '../..', must consist"),
        (HEADER + "a b\t0\t1\n", ":2: program is 'a b', must consist"),
        (HEADER + "create\t0\t1\ncreate\t1\t1\n", ":3: a second line for create"),
        ("\x00\xff\x00\n\x01\n", ":1: the columns must be"),
        (HEADER + "\x00\t\x01\t\x02", ":2: "),
    ],
)
def test_a_broken_summary_is_named_with_its_line(summary: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "summary.tsv").write_text(summary, "latin-1")
    with pytest.raises(UsageError) as caught:
        SUITE.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/summary.tsv{message}")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"programs": ["../x"]}', '{"facts": {"ref": 1}}', '{"what": 1}', "\x00"]
)
def test_a_broken_run_json_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json: "):
        SUITE.read(tmp_path)


def test_hostile_names_and_links_are_not_followed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "summary.tsv").write_text(HEADER + "create\t0\t1\n")
    (tmp_path / "secret").write_text("ok 1 - secret\n1..1\n")
    (raw / "create.tap").symlink_to(tmp_path / "secret")
    (raw / "ring.tap").symlink_to("ring.tap")
    for name in ("<script>.tap", "a b.tap", "-x.tap", "create.1.tap"):
        (raw / name).write_text("ok 1 - a\n1..1\n")
    (raw / "directory.tap").mkdir()
    reading = SUITE.read(raw, {"ref": "none"})
    assert reading.results == ()
    assert "58 programs missing: create" in (reading.reason or "")
    assert "runtime-tools none is not known; judged with the list of master" in reading.told
    for name in ("<script>.tap", "a b.tap", "-x.tap", "create.1.tap", "create.tap", "directory.tap", "ring.tap"):
        assert repr(name) in (reading.reason or "")


def test_rubbish_is_read_to_the_end(tmp_path: Path) -> None:
    (tmp_path / "summary.tsv").write_text(HEADER + "create\t0\t1\n")
    (tmp_path / "create.tap").write_bytes(bytes(range(256)) * 4000)
    (tmp_path / "create.err").write_bytes(b"\xff\x00" * 4000)
    reading = SUITE.read(tmp_path)
    assert [program.verdict for program in reading.programs] == [Verdict.NO_ASSERTIONS]


# --- what the suite prints


def line(kind: str, **more: object) -> bytes:
    return json.dumps({"type": kind, **more}).encode() + b"\n"


def plan(*programs: str, **facts: object) -> bytes:
    return line("plan", programs=programs, facts={"kernel": "6.12", "cgroup": "v2", "ref": "master", **facts})


def data(program: str, text: bytes, stream: str = "out") -> bytes:
    return line("data", program=program, stream=stream, data=base64.b64encode(text).decode())


def end(program: str, status: int | None = 0, **more: object) -> bytes:
    said: dict[str, object] = {
        "status": status,
        "signal": None,
        "timeout": False,
        "seconds": 1.5,
        "attempt": 1,
        "left": [],
    }
    return line("end", program=program, **{**said, **more})


GOOD = b"TAP version 13\nok 1 - a\n1..1\n"
BAD = b"TAP version 13\nnot ok 1 - a\n1..1\n"


def one(program: str, text: bytes, status: int | None = 0, **more: object) -> bytes:
    return line("start", program=program) + data(program, text) + end(program, status, **more)


Hear = Callable[..., tuple[Reading, list[tuple[Result, int, int | None]]]]


@pytest.fixture
def hear(tmp_path: Path) -> Hear:
    """Give a suite's output to the recorder, in pieces of some size, and read what it kept."""

    def do(output: bytes, *, only: tuple[str, ...] = (), piece: int = 1 << 16) -> Any:
        told: list[tuple[Result, int, int | None]] = []
        with SUITE.recorder(tmp_path, lambda *words: told.append(words), only) as recorder:
            for at in range(0, len(output), piece):
                recorder.take(output[at : at + piece])
            recorder.take_stderr(b"said\n")
        return SUITE.read(tmp_path), told

    return do


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_what_is_printed_is_kept_by_program(piece: int, hear: Hear, tmp_path: Path) -> None:
    output = (
        plan("create", "start")
        + line("start", program="create")
        + line("start", program="start")
        + data("create", GOOD[:20])
        + data("start", BAD)
        + data("create", GOOD[20:])
        + data("start", b"no such thing\n", "err")
        + end("start", left=["/mnt/x"])
        + end("create")
        + line("finish")
    )
    reading, told = hear(output, only=("create", "start"), piece=piece)
    assert (tmp_path / "create.tap").read_bytes() == GOOD
    assert (tmp_path / "start.err").read_bytes() == b"no such thing\n"
    assert (tmp_path / "labkit-programs.err").read_bytes() == b"said\n"
    assert reading.reason is None
    assert reading.facts == {"kernel": "6.12", "cgroup": "v2", "ref": "master", "spec": "1.3.0"}
    assert [(p.name, p.verdict, p.left) for p in reading.programs] == [
        ("start", "fail", ("/mnt/x",)),
        ("create", "pass", ()),
    ]
    assert [(r.id, r.verdict, done, planned) for r, done, planned in told] == [
        ("start", "fail", 1, 2),
        ("create", "pass", 2, 2),
    ]


def test_what_a_program_leaves_is_kept_beside_its_output(
    hear: Hear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each attempt, by names that are plain ones, and bounded apart from the output."""

    def left(name: str, content: bytes, program: str = "create") -> bytes:
        return line("evidence", program=program, name=name, data=base64.b64encode(content).decode())

    def whole(*leaves: bytes) -> bytes:
        return line("start", program="create") + data("create", GOOD) + b"".join(leaves) + end("create")

    output = plan("create") + whole(left("a.tar", b"1"), left("a.tar", b"2")) + whole(left("a.tar", b"3"))
    reading, _ = hear(output + line("finish"), only=("create",))
    assert (tmp_path / "create.evidence/a.tar").read_bytes() == b"12"
    assert (tmp_path / "create.2.evidence/a.tar").read_bytes() == b"3"
    assert reading.reason is None
    assert [result.verdict for result in reading.results] == ["pass"]

    for wrong in (left("../a", b""), left("", b""), left(".a", b""), left("a/b", b""), left("b", b"", "start")):
        reading, _ = hear(plan("create") + whole(wrong) + line("finish"), only=("create",))
        assert "1 lines of the output are not in the suite's format" in (reading.reason or "")
    reading, _ = hear(plan("create") + one("create", GOOD) + left("b", b"late") + line("finish"), only=("create",))
    assert "1 lines of the output are not in the suite's format" in (reading.reason or "")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name in ("a", ".a", "b")) == []

    monkeypatch.setattr(recordings, "TOTAL", 1000)
    reading, _ = hear(plan("create") + whole(left("c", b"x" * 900), left("d", b"y" * 101)) + line("finish"))
    assert "of output; the rest was dropped" in (reading.reason or "")
    assert (tmp_path / "create.evidence/c").stat().st_size == 900
    assert not (tmp_path / "create.evidence/d").exists()


def test_a_suite_that_ends_for_ever_fills_no_disk(hear: Hear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt ends once, and what is kept of all ends is bounded, as is the number of programs."""
    monkeypatch.setattr(recordings, "OUTPUT", 20_000)
    monkeypatch.setattr(recordings, "FILES", 10)
    left = ["x" * 500] * 10
    begun = plan("create") + line("start", program="create")
    reading, told = hear(begun + end("create", left=left) * 50 + line("finish"), only=("create",))
    assert len(told) == 1
    assert "49 lines of the output are not in the suite's format" in (reading.reason or "")
    again = (line("start", program="create") + end("create", left=left)) * 50
    many = b"".join(one(f"name{number}", b"") for number in range(50))
    reading, _ = hear(begun + again + many + line("finish"), only=("create",))
    assert "of output; the rest was dropped" in (reading.reason or "")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 30_000
    assert len(list(tmp_path.iterdir())) <= 10 + 3


def test_a_run_of_few_is_complete_and_a_run_of_all_needs_all(hear: Hear) -> None:
    output = plan("create") + one("create", GOOD) + line("finish")
    assert hear(output, only=("create",))[0].reason is None
    assert "57 programs missing: " in (hear(output)[0].reason or "")


def test_a_ref_as_git_describes_it_is_known(hear: Hear) -> None:
    output = plan("create", ref="v0.9.0-141-g5e63903") + one("create", GOOD) + line("finish")
    reading, _ = hear(output)
    assert (reading.facts["ref"], reading.facts["spec"]) == ("v0.9.0-141-g5e63903", "1.3.0")
    assert "57 programs missing" in (reading.reason or "")


def test_of_an_unknown_ref_the_plan_is_what_is_expected(hear: Hear) -> None:
    output = plan("create", "new_one", ref="0a1b2c") + one("create", GOOD) + line("finish")
    assert hear(output)[0].reason == "1 program missing: new_one"


def test_a_suite_that_breaks_off_leaves_what_it_had(hear: Hear) -> None:
    output = plan("create", "start") + one("create", GOOD) + line("start", program="start") + data("start", GOOD)
    reading, _ = hear(output, only=("create", "start"))
    assert reading.reason == "the suite did not finish; 1 program not finished: start"
    assert [result.program for result in reading.results if result.name == "a"] == ["create", "start"]


def test_a_row_that_was_cut_off_does_not_hide_the_others(hear: Hear, tmp_path: Path) -> None:
    hear(plan("create", "start") + one("create", GOOD) + one("start", GOOD), only=("create", "start"))
    summary = tmp_path / "summary.tsv"
    summary.write_bytes(summary.read_bytes()[:-12])
    assert "1 program not finished: start" in (SUITE.read(tmp_path).reason or "")


def test_repeated_programs_tell_which_are_flaky(hear: Hear) -> None:
    output = plan("create", "start") + b"".join(
        one(name, text) for name, text in [("create", GOOD), ("start", GOOD), ("create", BAD), ("start", GOOD)]
    )
    reading, _ = hear(output + line("finish"), only=("create", "start"))
    assert [(p.name, p.verdict, p.attempts, p.flaky) for p in reading.programs] == [
        ("create", "fail", ("pass", "fail"), True),
        ("start", "pass", ("pass", "pass"), False),
    ]
    assert [result.verdict for result in reading.results] == ["fail", "pass"]


@pytest.mark.parametrize(
    "noise",
    [
        b"Traceback (most recent call last):\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"type": "data", "program": "never", "stream": "out", "data": ""}\n',
        b'{"type": "data", "program": "create", "stream": "in", "data": ""}\n',
        b'{"type": "data", "program": "create", "stream": "out", "data": "***"}\n',
        b'{"type": "start", "program": "../../etc/x"}\n',
        b'{"type": "start", "program": ["create"]}\n',
        b'{"type": "plan", "programs": ["a/b"], "facts": {}}\n',
        b'{"type": "end", "program": "create", "status": "0", "seconds": "x"}\n',
        b'{"type": "end", "program": "create", "status": -9, "seconds": 1}\n',
        b'{"type": "end", "program": "create", "status": 0, "seconds": NaN}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 5_000_000 + b"\n",
    ],
)
def test_a_line_that_is_none_of_the_suite_is_counted(noise: bytes, hear: Hear) -> None:
    output = line("start", program="create") + noise + data("create", GOOD) + end("create") + line("finish")
    reading, _ = hear(plan("create") + output, only=("create",))
    assert reading.reason == "1 lines of the output are not in the suite's format"
    assert [program.verdict for program in reading.programs] == [Verdict.PASS]


def test_a_program_that_prints_without_end_is_cut(hear: Hear, tmp_path: Path) -> None:
    piece = data("create", b"ok - a\n" * 10_000)
    said = data("create", b"x" * 60_000, "err") * 20
    output = plan("create") + line("start", program="create") + piece * 130 + said + end("create") + line("finish")
    reading, _ = hear(output, only=("create",))
    assert (tmp_path / "create.tap").stat().st_size == 8 << 20
    assert (tmp_path / "create.err").stat().st_size == 1 << 20
    assert reading.reason is None
    assert [program.verdict for program in reading.programs] == [Verdict.ERROR]
    assert "printed too much" in str(next(r for r in reading.results if r.whole).diagnostic["message"])


def test_output_of_all_programs_together_is_bounded(hear: Hear, tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(10)]
    much = b"x" * 999_999 + b"\n"
    flood = b"".join(line("start", program=name) + data(name, much) * 7 + end(name) for name in names)
    reading, _ = hear(plan(*names, ref="x") + flood + line("finish"), only=tuple(names))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 65 << 20
    assert "more than 64 MiB of output" in (reading.reason or "")


def test_facts_are_taken_only_as_short_texts(hear: Hear) -> None:
    output = plan("create", kernel="k" * 5000, **{"a b": "x", "../x": "y", "list": [1]}) + line("finish")
    facts = hear(output)[0].facts
    assert set(facts) == {"kernel", "cgroup", "ref", "spec"}
    assert len(facts["kernel"]) < 1100


words = st.sampled_from(["plan", "start", "data", "end", "finish", "create", "out", "T0sK", "../x", ""])
messages = st.dictionaries(
    st.sampled_from(["type", "program", "programs", "facts", "stream", "data", "status", "seconds", "signal", "left"]),
    words | st.integers() | st.none() | st.booleans() | st.floats() | st.lists(words, max_size=3),
    max_size=6,
).map(lambda said: json.dumps(said).encode())
sent = st.lists(messages | st.binary(max_size=30) | st.just(one("create", GOOD)[:-1]), max_size=10).map(b"\n".join)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent)
def test_no_output_of_the_suite_raises(hear: Hear, tmp_path: Path, output: bytes) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    hear(plan("create") + output)
    assert {path.parent for path in tmp_path.rglob("*")} <= {tmp_path}


# --- the rest of the protocol


def test_only_known_programs_can_be_asked_for() -> None:
    SUITE.check(Selection(("create", "linux_ns_itype")))
    with pytest.raises(UsageError, match="no program 'hostnam'; did you mean 'hostname'"):
        SUITE.check(Selection(("hostnam",)))


def test_the_command_carries_the_wish() -> None:
    words = SUITE.argv("/x/labkit-programs.pyz", "runc", Selection(("create", "start"), 4, 3, 30))
    assert words[:2] == ["python3", "/x/labkit-programs.pyz"]
    assert words[2:7] == ["--attached", "--lock", "/run/labkit-suite.lock", "--tree", "/opt/labkit/src/runtime-tools"]
    assert " ".join(words[7:]) == (
        "--runtime runc --older crun 1.14.3 v0.9.0 --only create,start --jobs 4 --repeat 3 --timeout 30"
    )


def test_a_directory_is_known_by_what_it_holds(recordings: dict[str, Path], tmp_path: Path) -> None:
    assert [suite.name for suite in registry.of_directory(recordings["master"])] == ["validation"]
    assert registry.of_directory(tmp_path) == []
    (tmp_path / "spec.tap").write_text("")
    assert [suite.name for suite in registry.of_directory(tmp_path)] == ["spec"]
