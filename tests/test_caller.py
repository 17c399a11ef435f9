"""What calls a runtime, judged: six recorded engines, callers that are wrong, and whatever bytes there are."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from labkit.results.caller import calls, schema, uses
from labkit.results.caller.judge import Profile, checks, judge, table
from labkit.results.model import Result, Verdict
from tests.callers import CONFIG, ENGINES, MUTANTS, Caller, Lines, Mutant, data, right
from tests.conftest import ROOT


def judged(given: bytes, profile: Profile = Profile.PRACTICE) -> dict[str, Result]:
    return {result.id: result for result in judge(calls.read(given), profile)}


def failed(given: bytes, profile: Profile = Profile.PRACTICE) -> dict[str, list[str]]:
    return {ident: [*one.findings] for ident, one in judged(given, profile).items() if one.bad}


# --- recorded engines

# What each breaks in the document, besides options before the command (CALL-002).
EXTENSIONS = {
    "containerd-1.7.24": {
        "CALL-001": ["command ps", "command exec", "command pause", "command resume"],
        "CALL-002": ["delete --force", "option --log", "option --log-format", "option --root"],
        "CALL-005": ["kill ID SIGNAL"],
        "CALL-012": ["--console-socket with a path"],
        "CALL-025": ["delete of what is deleted"],
    },
    "containerd-cri-1.7.24": {
        "CALL-001": ["command exec", "command update"],
        "CALL-002": ["delete --force", "kill --all", "option --log", "option --log-format", "option --root"],
        "CALL-005": ["kill ID SIGNAL"],
        "CALL-025": ["delete of what is deleted"],
    },
    "docker-26.1.5": {
        "CALL-001": [
            "command exec",
            "command features",
            "command pause",
            "command ps",
            "command resume",
            "command update",
        ],
        "CALL-002": [
            "delete --force",
            "option --debug",
            "option --log",
            "option --log-format",
            "option --root",
            "option --version",
        ],
        "CALL-005": ["kill ID SIGNAL"],
        "CALL-012": ["--console-socket with a path"],
        "CALL-025": ["delete of what is deleted"],
    },
    "podman-5.4.2-runc": {
        "CALL-001": ["command exec", "command pause", "command resume", "command update"],
        "CALL-002": ["delete --force", "option --version"],
        "CALL-005": ["kill ID SIGNAL"],
        "CALL-012": ["--console-socket with a path"],
    },
    "podman2-buildah": {
        "CALL-002": [
            "delete --force",
            "option --debug",
            "option --log",
            "option --log-format",
            "option --systemd-cgroup",
        ],
        "CALL-005": ["kill ID SIGNAL"],
        "CALL-042": ["schema linux.devices[].fileMode"],
    },
    "systemd-cgroup": {
        "CALL-001": ["command features"],
        "CALL-002": [
            "delete --force",
            "option --log",
            "option --log-format",
            "option --root",
            "option --systemd-cgroup",
            "option --version",
        ],
    },
}
# In practice one thing is wrong: podman gives the modes of devices of --privileged with their types, which is more than
# the schema's maximum.
WRONG = {"podman2-buildah": {"CALL-042": ["podman: schema linux.devices[].fileMode"]}}
SKIPPED = {
    "containerd-1.7.24": "013 014 015 026 049 051 053 054 055",
    "containerd-cri-1.7.24": "012 013 014 015 026 049 050 051 053 055",
    "docker-26.1.5": "013 014 015 026 049 050 054 055",
    "podman-5.4.2-runc": "013 014 015 026 049 051 055",
    "podman2-buildah": "012 013 014 015 026 027 049 051 055",
    "systemd-cgroup": "005 012 013 014 015 021 022 023 026 027 049 054 055",
}


def test_there_are_six_recordings() -> None:
    assert sorted(ENGINES) == sorted(EXTENSIONS) == sorted(SKIPPED)


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_verdicts_of_the_recordings(name: str) -> None:
    assert failed(ENGINES[name]) == WRONG.get(name, {})
    skipped = [ident for ident, one in judged(ENGINES[name]).items() if one.verdict is Verdict.SKIP]
    assert skipped == [f"CALL-{number}" for number in SKIPPED[name].split()]
    found = {
        ident: sorted({one.partition(": ")[2] for one in findings})
        for ident, findings in failed(ENGINES[name], Profile.DOCUMENT).items()
    }
    assert found == {ident: sorted(words) for ident, words in EXTENSIONS[name].items()}


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_what_is_practised_is_told_with_the_call(name: str) -> None:
    document = failed(ENGINES[name], Profile.DOCUMENT)
    for ident, result in judged(ENGINES[name]).items():
        notes = result.diagnostic.get("notes", {})
        assert isinstance(notes, Mapping)
        practised = notes.get("practised", [])
        assert isinstance(practised, list)
        wrong = failed(ENGINES[name]).get(ident, []) if ident != "CALL-060" else []
        assert len(practised) + len(wrong) == len(document.get(ident, []))
        assert all("call" in str(line) for line in practised)


ENGINES_OF = {
    "containerd-1.7.24": {"containerd": 18},
    "containerd-cri-1.7.24": {"containerd CRI": 16},
    "docker-26.1.5": {"docker": 39},
    "podman-5.4.2-runc": {"podman": 21},
    "podman2-buildah": {"podman": 27, "buildah": 1},
    "systemd-cgroup": {"docker": 5, "containerd": 2},
}


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_who_called_is_known(name: str) -> None:
    record = calls.read(ENGINES[name])
    assert record.reason is None
    counted = {one: sum(call.engine == one for call in record.calls) for one in {call.engine for call in record.calls}}
    assert counted == ENGINES_OF[name]


def test_what_is_not_told_is_not_guessed() -> None:
    """buildah's create is the last call of its recording, and nobody knows how it ended."""
    result = judged(ENGINES["podman2-buildah"])["CALL-024"]
    assert result.verdict is Verdict.PASS
    assert result.diagnostic["notes"] == {
        "undecided": ["the record does not tell whether create succeeded (1 call)"],
    }


def test_the_table_of_features_stands_in_the_reference() -> None:
    every = [call for name in sorted(ENGINES) for call in calls.read(ENGINES[name]).calls]
    made = uses.markdown(uses.table(every))
    assert made in (ROOT / "docs/reference/caller.md").read_text(), made
    assert "prestart" in made and "SCMP_ACT_ERRNO" in made


def test_the_checks_stand_in_the_reference() -> None:
    text = (ROOT / "docs/reference/caller.md").read_text()
    for ident, row in table().items():
        assert f"| {ident} | {row['level']} | {row['summary']} |" in text


# --- callers that are wrong


def test_a_right_caller_has_nothing_wrong() -> None:
    record = calls.read(data(right()))
    assert record.reason is None
    for profile in Profile:
        results = judge(record, profile)
        assert [result.id for result in results] == list(table())
        assert {result.id: result.verdict.value for result in results if result.verdict is not Verdict.PASS} == {
            "CALL-027": "skip",  # it uses no other commands
            "CALL-055": "skip",
        }


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_wrong_caller_is_caught_by_the_right_check(mutant: Mutant) -> None:
    lines = copy.deepcopy(right())
    mutant.change(lines)
    document = failed(data(lines), Profile.DOCUMENT)
    assert sorted(document) == sorted({mutant.check, *mutant.also})
    practice = failed(data(lines), Profile.PRACTICE)
    assert (mutant.check in practice) == mutant.in_practice
    assert practice.keys() <= document.keys()


def test_every_check_has_a_mutant() -> None:
    assert {mutant.check for mutant in MUTANTS} == set(checks())
    assert len(MUTANTS) >= 20
    assert set(table()) == {*checks(), "CALL-060"}


# --- records as they come


def test_lines_that_are_damaged_make_it_incomplete() -> None:
    whole = data(right())
    record = calls.read(whole + b'{"event": "call", "argv": ["sta')
    assert record.reason == "1 line (19) of the record could not be read"
    assert len(record.calls) == 9
    assert calls.read(whole.replace(b'"state", "one"', b'"state", "one', 1)).reason is not None


def test_lines_of_a_spy_that_was_killed_are_told() -> None:
    """Wherever its write ended, also where another one's line follows at once."""
    lines = data(right()).splitlines(keepends=True)
    for at in range(1, len(lines[2]) - 1):
        for between in (b"\n", b""):
            record = calls.read(b"".join([*lines[:2], lines[2][:at], between, *lines[2:]]))
            assert record.reason is None, (at, between)
            assert any(told.startswith("1 line cut off: the spy was killed") for told in record.told), (at, between)
            assert len(record.calls) == 9, (at, between)


def test_where_calls_are_missing_nothing_is_concluded_from_it() -> None:
    """The line of a create is damaged: that what follows it was never created is not known."""
    lines = data(right()).splitlines(keepends=True)
    cut = b"".join([lines[0][:200] + b"\n", *lines[1:]])
    assert failed(cut) == {}
    assert "undecided" in json.dumps(dict(judged(cut)["CALL-021"].diagnostic))
    assert failed(b"".join(lines[2:]))["CALL-021"] == ["podman: start of what was never created"]


def test_lines_that_are_too_long_are_counted() -> None:
    big = json.dumps({"argv": ["state", "x" * (calls.LINE + 1)], "fds": {}}).encode()
    record = calls.read(data(right()) + big + b"\n")
    assert record.reason == "1 line (19) of the record were too long to be kept"


def test_what_is_no_call_is_told() -> None:
    foreign = b'{"level": "info", "msg": "x"}\n[1, 2]\n"text"\n{"argv": "state"}\n{"argv": ["a"]}\n'
    record = calls.read(foreign + data(right()))
    assert record.reason is None and len(record.calls) == 9
    assert record.told[0].startswith("6 lines (1, 2, 2, 3, 4, ...)")


def test_the_ends_of_the_spys_lines() -> None:
    caller = Caller()
    caller.call("create", "a", config=CONFIG)
    caller.lines.append({"event": "state", "id": "c0", "status": 0, "stdout": '{"status": "created"}'})
    caller.call("start", "a", status=None)
    record = calls.read(data(caller.lines))
    first, second = record.calls
    assert (first.failed, first.state, first.end) == (False, "created", 1000.5)
    assert second.failed is None
    assert "1 call whose end is not in the record" in record.told[-1]
    orphan = {"event": "end", "id": "nobody", "status": 0}
    assert calls.read(data([*caller.lines, orphan])).reason == "1 line of calls whose beginning is not there"
    assert (
        calls.read(data([*caller.lines, {"event": "full"}])).reason == "the record was full: later calls are not in it"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.decode().encode("utf-16"),
        lambda text: b"[\n" + text.strip().replace(b"\n", b",\n") + b"\n]\n",
        lambda text: b"[" + text.strip().replace(b"\n", b",") + b"]",
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: b"".join(b"Nov 27 00:00:01 host spy[7]: " + line for line in text.splitlines(keepends=True)),
        lambda text: b"".join(json.dumps(json.loads(line), indent=2).encode() + b"\n" for line in text.splitlines()),
        lambda text: json.dumps([json.loads(line) for line in text.splitlines()], indent=4).encode(),
    ],
    ids=["bom", "crlf", "utf-16", "array", "array on one line", "empty lines", "a log", "indented", "indented array"],
)
def test_records_that_went_through_other_hands(change: Any) -> None:
    record = calls.read(change(data(right())))
    assert record.reason is None
    assert [call.argv for call in record.calls] == [call.argv for call in calls.read(data(right())).calls]
    assert failed(change(data(right()))) == {}


def test_options_that_nobody_knows_do_not_hide_the_command() -> None:
    for before in (["--frob", "x"], ["--frob=x"], ["--frob"], ["--root", "create"], ["--log", "/a", "--debug"]):
        caller = Caller()
        caller.call(*before, "start", "a")
        (call,) = calls.read(data(caller.lines)).calls
        assert (call.command, call.id) == ("start", "a"), before


def test_two_roots_are_two_worlds() -> None:
    caller = Caller()
    for root in ("/run/a", "/run/b"):
        caller.call("--root", root, "create", "same", config=CONFIG)
    for root in ("/run/a", "/run/b"):
        caller.call("--root", root, "delete", "same")
    assert failed(data(caller.lines)) == {}


# --- whatever there is

IDS = st.sampled_from(["a", "b"])
STATUS = st.sampled_from([0, 0, 0, 1, None])


@st.composite
def lives(draw: st.DrawFn) -> Lines:
    """Calls in any order, about two containers."""
    caller = Caller()
    for _ in range(draw(st.integers(0, 14))):
        command = draw(st.sampled_from(["create", "start", "state", "kill", "delete", "pause"]))
        more = {"config": CONFIG} if command == "create" else {}
        caller.call(command, draw(IDS), status=draw(STATUS), **more)
    return caller.lines


def _model(lines: Lines) -> dict[str, set[str]]:
    """The ids that each check of the lifecycle is to name: a plain reading, of calls whose ends are all known."""
    ends = {line["id"]: line["status"] for line in lines if line["event"] == "end"}
    there: dict[str, str] = {}  # id -> created, failed (its start), started, gone, never (its create failed)
    wrong: dict[str, set[str]] = {f"CALL-{n:03}": set() for n in range(20, 28)}
    for line in lines:
        if line["event"] != "call":
            continue
        command, name = line["argv"][0], line["argv"][1]
        ok, was = ends[line["id"]] == 0, there.get(name, "none")
        alive = was in ("created", "failed", "started")
        if command == "create":
            if alive:
                wrong["CALL-020"].add(name)
            if ok:
                for check in ("CALL-026" if was == "failed" else "CALL-024",) if alive else ():
                    wrong[check].add(name)
                there[name] = "created"
            elif not alive:
                there[name] = "never"
        elif command == "start":
            assume(
                alive or not ok
            )  # no runtime starts what is not there, and both readings may then go on as they like
            if not alive:
                wrong["CALL-021"].add(name)
            elif was == "started":
                wrong["CALL-022"].add(name)
            if alive:
                there[name] = "started" if ok or was == "started" else "failed"
        elif command == "kill" and was in ("none", "gone"):
            wrong["CALL-023"].add(name)
        elif command == "pause" and not alive:
            wrong["CALL-027"].add(name)
        elif command == "delete":
            if was in ("none", "gone"):
                wrong["CALL-025"].add(name)
            elif ok:
                there[name] = "gone"
    for name, was in there.items():
        if was in ("created", "started", "failed"):
            wrong["CALL-026" if was == "failed" else "CALL-024"].add(name)
    return wrong


@given(lives().filter(lambda lines: all(sum(o["id"] == one["id"] for o in lines) == 2 for one in lines)))
@settings(max_examples=200, deadline=None)
def test_the_lifecycle_is_read_as_a_plain_reading_does(lines: Lines) -> None:
    results = judged(data(lines))
    for check, names in _model(lines).items():
        assert results[check].bad == bool(names), (check, names, dict(results[check].diagnostic))


@given(lives(), st.randoms())
@settings(max_examples=100, deadline=None)
def test_verdicts_do_not_hang_on_where_a_record_is_cut(lines: Lines, random: Any) -> None:
    """Cut anywhere, it is read; what was wrong before the cut in the document is wrong in practice or told."""
    whole = data(lines)
    cut = whole[: random.randint(0, len(whole))]
    record = calls.read(cut)
    assert len(record.calls) <= sum(line["event"] == "call" for line in lines)
    for profile in Profile:
        assert [one.id for one in judge(record, profile)] == list(table())


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def odd(draw: st.DrawFn) -> Any:
    """A configuration of which anything is anything."""
    config = copy.deepcopy(CONFIG)
    for _ in range(draw(st.integers(1, 4))):
        at: Any = config
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is None:
                break
            if not isinstance(at[key], dict | list) or not at[key] or draw(st.booleans()):
                at[key] = draw(JSON)
                break
            at = at[key]
    return config


@given(odd())
@settings(max_examples=200, deadline=None)
def test_any_configuration_is_judged(config: Any) -> None:
    caller = Caller()
    caller.life("one", config)
    results = judge(calls.read(data(caller.lines)))
    assert [one.id for one in results] == list(table())


@given(
    st.dictionaries(st.sampled_from(["event", "id", "argv", "fds", "env", "config", "status", "left_out", "t"]), JSON)
)
@settings(max_examples=200, deadline=None)
def test_any_line_is_read(line: Any) -> None:
    judge(calls.read(data([*right()[:2], line])))


@given(st.binary(max_size=300))
def test_any_bytes_are_read(given: bytes) -> None:
    judge(calls.read(given))
    calls.is_record(given)


# --- the schema


def test_the_schema_is_that_of_the_version() -> None:
    config = copy.deepcopy(CONFIG)
    config["linux"]["namespaces"].append({"type": "time"})
    assert schema.errors(config, schema.schema_of("1.2.0")) == []
    assert [place for place, _ in schema.errors(config, schema.schema_of("1.0.2"))] == ["linux.namespaces[]"]
    assert schema.schema_of("1.0.0") == "1.0.2" and schema.schema_of("1.2.1-rc.1+dev") == "1.2.1"
    assert schema.schema_of("1.9.0") == schema.NEWEST and schema.schema_of("9") == ""


@pytest.mark.parametrize("version", sorted(set(schema.RELEASES.values())))
def test_each_schema_is_one(version: str) -> None:
    from jsonschema import Draft4Validator

    Draft4Validator.check_schema(schema._schema(version))
    assert schema.errors(CONFIG, version) == []
    assert schema.errors({**CONFIG, "mounts": 1}, version)


def test_fields_of_later_versions_and_of_none() -> None:
    config = copy.deepcopy(CONFIG)
    config["domainname"] = "x"
    config["linux"]["intelRdt"] = {"closID": "x", "enableCMT": True}
    config["zzz"] = 1
    assert schema.later(config, schema.schema_of("1.0.2")) == [
        ("domainname", "1.1.0"),
        ("linux.intelRdt.enableCMT", "1.1.0"),
    ]
    assert schema.later(config, schema.NEWEST) == []
    assert schema.strange(config) == ["zzz"]  # enableCMT is not of 1.3.0, but of those before
    caller = Caller()
    caller.life("one", {**CONFIG, "zzz": 1})
    assert "zzz is of no release" in json.dumps(dict(judged(data(caller.lines))["CALL-043"].diagnostic))
