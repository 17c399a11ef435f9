"""The image suite: its images, what labkit-images prints judged (real runs, hostile ones), and how it is asked for."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.core.cell import Selection
from labkit.core.errors import UsageError
from labkit.guest.engines import image
from labkit.guest.engines.base import Broken, Place
from labkit.guest.engines.own import DATA
from labkit.guest.images import builders, cases, converters, layout, tree
from labkit.guest.images.escapes import ESCAPES
from labkit.reports.evidence import link
from labkit.results import policy
from labkit.results.images import builds, events, judge, trees
from labkit.results.model import EngineInfo, Reading, RunInfo, RuntimeInfo, SuiteInfo, Verdict
from labkit.results.model import Run as OneRun
from labkit.subjects import engines
from labkit.suites import image as suite
from labkit.suites import registry
from tests.conftest import ROOT
from tests.converters import family, raw_zstd
from tests.image_runs import PLACE, RUNS
from tests.test_judge import Run, run

__all__ = ["run"]


def read(tmp_path: Path, data: bytes) -> Reading:
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    (raw / suite.FILE).write_bytes(data)
    return suite.SUITE.read(raw)


# --- the images


def test_images_have_the_same_bytes_on_every_host() -> None:
    """A change of an image changes this, and what was recorded of it has to be recorded again."""
    archives = b"".join(case.image().archive() for case in cases.CASES)
    assert hashlib.sha256(archives).hexdigest()[:16] == "26b4c74656618114"


def test_layers_are_archives_in_the_form_that_they_say() -> None:
    for case in cases.CASES:
        for data, kind in case.image().layers:
            form = image.packed(data, kind)
            plain = zlib.decompress(form, 31) if "gzip" in kind else raw_zstd(form) if "zstd" in kind else form
            with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
                assert len(archive.getmembers()) == len(list(layout.entries(plain)))


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 131072, 131073, 300000])
def test_what_is_stored_is_read_by_every_reader(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert zlib.decompress(image.gzip(data[:size]), 31) == data[:size]
    assert raw_zstd(image.zstd(data[:size])) == data[:size]


def test_no_layer_names_a_path_twice_and_parents_come_first() -> None:
    """What the document forbids, and some converters refuse, is not what any check is about."""
    for case in cases.CASES:
        for data, _ in case.image().layers:
            names = [str(entry["name"]).strip("/") for entry in layout.entries(data)]
            assert len(names) == len(set(names)), case.name


def test_a_layout_is_a_directory_or_an_archive(tmp_path: Path) -> None:
    made = cases.CASES[0].image()
    made.unpack(tmp_path / "layout")
    with tarfile.open(fileobj=io.BytesIO(made.archive())) as archive:
        files = {member.name for member in archive if member.isfile()}
    assert files == set(made.files()) == set(layout.look(tmp_path / "layout")["files"])
    assert b"altered here" not in b"".join(cases.named("plain").image().files().values())


# --- the checks


def test_every_check_has_images_or_is_about_builds() -> None:
    of_cases = {ident for case in cases.CASES for ident in case.checks}
    assert set(judge.table()) == of_cases | set(builds.CHECKS)
    assert {ident for case in ESCAPES for ident in case.checks} == set(trees.ESCAPES)
    assert all(case.name in {one.name for one in cases.needed([case.checks[0]])} for case in cases.CASES)


def test_the_page_has_every_check() -> None:
    page = (ROOT / "docs/reference/images.md").read_text()
    for ident, row in judge.table().items():
        address = link(row["section"], "")
        assert address
        level = row["level"] or "-"
        level += " (implied)" if row["implied"] else ""
        assert f"| {ident} | {level} | {row['summary']} | [{row['section'].partition(':')[2]}]({address}) |" in page


def test_references_lead_to_image_spec() -> None:
    page = "https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts"
    assert link("image-spec:layer.md#whiteouts", "1.0.2") == page
    assert link("nobody:layer.md#whiteouts", "1.0.2") is None


# --- real runs

_SHOWN = {Verdict.PASS: "✓", Verdict.FAIL: "✗", Verdict.SKIP: "-"}


def rows_of_table() -> list[str]:
    """The table of the page: how many checks of each kind pass of those that could, and each check that any fails."""
    found = {
        name: events.read(RUNS[name])
        for name in ("umoci", "oci-image-tool", "docker", "podman", "containerd", "buildah")
    }
    verdicts = {name: {one.id: one.verdict for one in judge.judge(output)} for name, output in found.items()}
    versions = [str(output.facts["engine-version"]).partition("+")[0].partition("~")[0] for output in found.values()]
    rows = ["| | " + " | ".join(f"{name} {version}" for name, version in zip(found, versions, strict=True)) + " |"]
    rows.append("| --- " * (len(found) + 1) + "|")
    kinds = {"CONV": "config.json", "LAYER": "unpacking", "ESCAPE": "leaving the root", "BUILD": "builds"}
    for kind, title in kinds.items():
        for levels, word in ((("MUST", "MUST NOT"), "MUST"), (("SHOULD", "SHOULD NOT", ""), "SHOULD")):
            some = [one for one, row in judge.table().items() if family(one) == kind and row["level"] in levels]
            cells = []
            for of in verdicts.values():
                seen = [of[one] for one in some if of[one] is not Verdict.SKIP]
                cells.append(f"{sum(one is Verdict.PASS for one in seen)} of {len(seen)}" if seen else "-")
            rows += [f"| {title}, {word} | " + " | ".join(cells) + " |"] if some else []
    for ident, row in judge.table().items():
        cells = [_SHOWN[of[ident]] for of in verdicts.values()]
        if "✗" in cells:
            rows.append(f"| {ident} {row['level']} | " + " | ".join(cells) + " |")
    return rows


def test_the_table_of_the_page_is_of_these_runs() -> None:
    assert "\n".join(rows_of_table()) in (ROOT / "docs/reference/images.md").read_text()


def test_every_converter_was_recorded() -> None:
    assert set(RUNS) == set(engines.usable("image"))


@pytest.mark.parametrize("name", sorted(RUNS))
def test_a_real_run_comes_to_what_is_written_down(tmp_path: Path, name: str) -> None:
    """CONVERTER.tsv has what does not pass."""
    reading = read(tmp_path, RUNS[name])
    assert reading.reason is None
    told = [
        f"{one.id}\t{one.verdict}\t{', '.join(one.findings)}" for one in reading.results if one.verdict != Verdict.PASS
    ]
    assert told == (PLACE / f"{name}.tsv").read_text().splitlines()


@pytest.mark.parametrize("name", sorted(RUNS))
def test_what_is_bad_in_a_real_run_has_a_reason_in_the_policy(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "work/some.jsonl").write_bytes(RUNS[name])
    run("judge", "some.jsonl")
    found = json.loads((tmp_path / "work/reports/latest/results.json").read_text())
    assert found["engine"]["name"] == name and found["engine"]["version"]
    assert found["unexpected"] == 0 and found["run"]["complete"]
    assert not found["policy"]["unexpected_passes"]
    page = (tmp_path / "work/reports/latest/report.html").read_text()
    assert found["engine"]["version"] in page and "image-spec/blob/main/conversion.md" in page


def test_every_shipped_entry_names_checks_findings_and_converters() -> None:
    entries = [entry.rule for entry in policy.load() if entry.rule.suite == "image"]
    assert len(entries) > 20
    for rule in entries:
        assert set(rule.id or ()) <= set(judge.table()) and rule.findings and rule.expected == (Verdict.FAIL,)
        assert set(rule.engine or ()) <= set(engines.usable("image")) and rule.engine


def test_output_that_breaks_off_is_incomplete(tmp_path: Path) -> None:
    lines = RUNS["umoci"].splitlines(keepends=True)
    reading = read(tmp_path, b"".join(lines[:10]))
    assert reading.reason == "the suite did not finish"
    assert 0 < len(reading.results) < len(judge.table())
    assert {one.id for one in reading.results} <= set(judge.table())


def test_a_converter_that_cannot_be_used_is_an_error_in_every_check(tmp_path: Path) -> None:
    plan = json.loads(RUNS["umoci"].splitlines()[0])
    some = [plan, {"type": "broken", "why": "umoci is not installed"}, {"type": "finish"}]
    reading = read(tmp_path, "\n".join(map(json.dumps, some)).encode())
    assert {one.verdict for one in reading.results} == {Verdict.ERROR}
    assert len(reading.results) == len(judge.table())
    assert "umoci is not installed" in str(reading.results[0].diagnostic["message"])


def test_records_of_calls_and_of_images_are_told_apart(tmp_path: Path) -> None:
    read(tmp_path, RUNS["docker"])
    assert [one.name for one in registry.of_directory(tmp_path / "raw")] == ["image"]


# --- hostile events

_TEXT = st.text(max_size=20)
_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)
_PATHS = sorted({path for case in cases.CASES for shown in case.shows.values() for path in shown})
_TREE = st.dictionaries(st.sampled_from(_PATHS), _VALUE, max_size=5)
_CONFIG = st.fixed_dictionaries(
    {}, optional={key: _VALUE for key in ("annotations", "mounts")} | {"process": _VALUE | st.fixed_dictionaries(
        {}, optional={key: _VALUE for key in ("env", "args", "cwd", "user")})}
)  # fmt: skip
_BLOBS = st.dictionaries(_TEXT, _VALUE | st.fixed_dictionaries({"json": _VALUE, "entries": st.lists(_VALUE)}))
_LAYOUT = st.fixed_dictionaries(
    {}, optional={"files": _VALUE, "oci-layout": _VALUE, "index.json": _VALUE, "blobs": _BLOBS}
)
_EVENT = st.fixed_dictionaries(
    {"type": st.sampled_from(["plan", "version", "case", "build", "log", "broken", "finish"])},
    optional={
        "case": st.sampled_from([case.name for case in cases.CASES]) | _VALUE,
        "config": _CONFIG | _VALUE,
        "tree": _TREE | _VALUE,
        "layout": _LAYOUT | _VALUE,
        **{
            key: _VALUE
            for key in ("facts", "cases", "only", "about", "outside", "status", "err", "cannot", "validate", "commands")
        },
    },
)


@settings(max_examples=30, deadline=None)
@given(st.lists(_EVENT, max_size=12))
def test_whatever_events_come_nothing_raises(given_events: list[dict[str, Any]]) -> None:
    plan = {"type": "plan", "facts": {"engine": "x"}, "cases": [case.name for case in cases.CASES], "builds": ["build"]}
    output = events.read("\n".join(map(json.dumps, [plan, *given_events])).encode())
    for one in judge.judge(dataclasses.replace(output, cases=tuple(plan["cases"]), builds=True, only=())):
        assert one.id in judge.table() and isinstance(one.verdict, Verdict)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=2000))
def test_whatever_a_blob_is_it_is_looked_at(data: bytes) -> None:
    json.dumps(layout.blob(data))
    head = b"name".ljust(257, b"\0") + b"ustar\x0000"
    json.dumps(layout.blob(head.ljust(512, b"\0") + data))


def test_a_tree_is_looked_at_without_following_links(tmp_path: Path) -> None:
    (tmp_path / "root/t").mkdir(parents=True)
    (tmp_path / "root/t/file").write_bytes(b"1")
    os.link(tmp_path / "root/t/file", tmp_path / "root/t/same")
    (tmp_path / "root/t/link").symlink_to("/etc")
    (tmp_path / "root/elsewhere").symlink_to("/etc")
    Path(os.fsdecode(os.fsencode(tmp_path / "root/t") + b"/caf\xe9")).write_bytes(b"")
    found = tree.walk(tmp_path / "root", "t")
    assert set(found) == {"t", "t/file", "t/same", "t/link", "t/caf\\xe9"}
    assert found["t/same"]["same"] == "t/file" and found["t/link"]["link"] == "/etc"
    assert tree.walk(tmp_path / "root", "elsewhere") == {}


# --- how it is asked for


def test_what_converts_has_to_be_said() -> None:
    with pytest.raises(UsageError, match="needs --engine") as said:
        suite.SUITE.check(Selection())
    assert "umoci" in str(said.value.hint) and "cri-o" not in str(said.value.hint)


@pytest.mark.parametrize(
    ("name", "of", "message"),
    [
        ("image", "nerdctl", "nerdctl cannot be used: Debian 13 has no package of it"),
        ("image", "crictl", "containerd's CRI, by crictl cannot be used by the suite image, only with --suite engine"),
        ("engine", "umoci", "umoci cannot be used by the suite engine, only with --suite image"),
        ("spec", "umoci", "the spec suite has no engine"),
    ],
)
def test_a_converter_of_another_suite_or_none_is_told(name: str, of: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.find(name, of)


def test_what_the_suite_does_not_have_is_told() -> None:
    found = registry.find("image", "umoci")
    with pytest.raises(UsageError, match="did you mean 'CONV-001'"):
        found.check(Selection(only=("CONV-1",)))
    with pytest.raises(UsageError, match="does not take --user"):
        found.check(Selection(user="nobody"))
    argv = found.argv("/p.pyz", "runc", Selection(only=("LAYER-05*",), skip=("LAYER-051",)))
    assert argv[argv.index("--converter") + 1] == "umoci"
    assert argv[-1].split(",")[:2] == ["LAYER-050", "LAYER-052"]
    assert found.needs == ("umoci",)


def test_the_converters_are_those_that_are_listed() -> None:
    by_crictl = {name for name in engines.usable("engine") if engines.find(name).brings}
    assert set(converters.names()) - by_crictl == set(engines.usable("image"))
    assert set(engines.usable("engine")) == set(engines.usable()) - set(converters.programs())


@pytest.mark.parametrize("name", converters.programs())
def test_a_converter_that_is_not_there_names_the_step_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("labkit.guest.images.converters.base.find_program", lambda _: None)
    about = engines.find(name)
    with pytest.raises(Broken, match=f"{about.program} is not installed; the bootstrap's step {about.steps[0]} brings"):
        converters.make(name, Place(tmp_path / "data", tmp_path / "run", "runc"), "", [])


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("0.4.7+ds-3+b7", "<0.5", True),
        ("0.6.0", "<0.5", False),
        ("", "<0.5", False),
        ("26.1.5+dfsg1", ">=26, <27", True),
    ],
)
def test_an_entry_may_be_about_versions_of_a_converter(tmp_path: Path, version: str, wanted: str, holds: bool) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        f'[[entry]]\nsuite = "image"\nengine = "umoci"\nengine_version = "{wanted}"\nid = "LAYER-003"\n'
        'expected = "fail"\nreason = "a test"\n'
    )
    entry = policy.load(file)[0]
    then = datetime(2026, 1, 1, tzinfo=UTC)
    info = RunInfo("x", then, then, "0", None, None)
    made = OneRun(
        info, {}, RuntimeInfo("runc", "", ""), SuiteInfo("image", "1.0.0"), (), engine=EngineInfo("umoci", version)
    )
    assert entry.applies(made) is holds
    assert entry.lacks(made) == (() if version else ("engine version",))


def test_a_version_of_a_converter_needs_the_converter(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        '[[entry]]\nsuite = "image"\nengine_version = "<1"\nid = "LAYER-003"\nexpected = "fail"\nreason = "a test"\n'
    )
    with pytest.raises(UsageError, match="names an engine_version without its engine"):
        policy.load(file)


def test_a_build_file_says_what_is_looked_for(tmp_path: Path) -> None:
    builders.write(tmp_path)
    text = (tmp_path / "Dockerfile").read_text()
    for word in (
        'ENV LABKIT="a b"',
        'LABEL org.labkit.quotes="it\'s \\"so\\""',
        'ENTRYPOINT ["/bin/true", "first one"]',
    ):
        assert word in text


# --- on this host


@pytest.mark.host_runtime
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("umoci", marks=pytest.mark.needs("umoci")),
        pytest.param("oci-image-tool", marks=pytest.mark.needs("oci-image-tool")),
    ],
)
def test_a_converter_of_this_host_is_as_expected_and_leaves_nothing(run: Run, tmp_path: Path, name: str) -> None:
    argv = [sys.executable, "-m", "labkit.guest.images", "--converter", name, "--runtime", "runc"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not list(DATA.glob("engine-*"))
    (tmp_path / "work/some.jsonl").write_bytes(done.stdout)
    run("judge", "some.jsonl")
    found = json.loads((tmp_path / "work/reports/latest/results.json").read_text())
    assert found["unexpected"] == 0 and found["run"]["complete"] and len(found["results"]) == len(judge.table())


@pytest.mark.host_runtime
def test_only_what_checks_need_is_converted_and_what_is_missing_is_told(tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "labkit.guest.images",
        "--converter",
        "umoci",
        "--runtime",
        "runc",
        "--only",
        "CONV-001",
    ]
    env = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    (tmp_path / "umoci").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "umoci").chmod(0o755)
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=120, env=env)
    output = events.read(done.stdout)
    assert output.cases == ("whole",) and not output.builds
    (only,) = judge.judge(output)
    assert only.verdict is Verdict.FAIL and only.findings == ("refused",)
