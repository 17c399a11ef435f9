"""Suites on real machines through the command line, and everything that goes wrong: what is about no kind of machine.

Most tests share one lab whose machine they leave running and clean (fixture `lab` in conftest.py), of User-Mode Linux
where that can be had.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Lab, make_lab, until
from tests.stock import Stock

pytestmark = pytest.mark.machine

QUICK = "QUERY-001,QUERY-002"

SLOW = "STATE-001,STATE-002,STATE-003,STATE-004,STATE-005,STATE-006,QUERY-002,KILL-003,START-003"


@pytest.fixture(autouse=True)
def nothing_goes_on(lab: Lab) -> Iterator[None]:
    yield
    lab.kill_all()


def boot_of(lab: Lab) -> str:
    return lab.guest("cat /proc/sys/kernel/random/boot_id")


def put(lab: Lab, path: str, script: str, machine: str | None = None) -> None:
    """Write an executable script into the machine."""
    lab.guest(f"cat >{path} <<'EOF'\n{script}\nEOF\nchmod 755 {path}", machine)


def test_two_commands_from_nothing_to_a_report(lab: Lab, stock: Stock) -> None:
    done = lab.run("test", "--runtime", "runc", "--only", QUICK)
    directory = lab.cwd / "reports" / "latest"
    assert {path.name for path in directory.iterdir()} == {
        "results.json", "results.tap", "junit.xml", "report.html", "console.log", "raw", "packages.cdx.json",
    }  # fmt: skip
    assert {path.name for path in (directory / "raw").iterdir()} == {"spec.tap", "spec.err"}
    result = lab.results()
    assert result["schema"] == 1
    assert result["run"]["complete"] is True
    assert "packages" in result["machine"].pop("bootstrap")
    assert ("User-Mode Linux" in result["machine"].pop("kernel_origin", "")) == (stock.provider == "uml")
    assert result["machine"] | {"kernel": "", "name": ""} == {
        "platform": "debian", "release": "13", "provider": stock.provider, "cgroup": "v2", "kernel": "", "name": "",
        "accelerator": result["machine"]["accelerator"], "arch": "amd64",
    }  # fmt: skip
    assert result["runtime"]["path"] == "/usr/sbin/runc"
    assert re.match(r"1\.", result["runtime"]["version"])
    assert [entry["id"] for entry in result["results"]] == ["QUERY-001", "QUERY-002"]
    assert result["totals"]["pass"] == 2
    assert str(directory.resolve() / "report.html") in done.stdout
    printed = (directory / "raw" / "spec.tap").read_text()
    assert printed.startswith("TAP version 14\n# runtime: runc\n")
    assert "\n1..2\n" in printed


def the_whole_spec_suite(lab: Lab, runtime: str) -> None:
    # Software emulation makes a guest's kernel panic now and then; that is an incomplete run, and told as one.
    for _ in range(3):
        done = lab.run("test", "--runtime", runtime, status=None)
        result = lab.results()
        if done.returncode != 4 or "kernel panicked" not in result["run"]["reason"]:
            break
    assert done.returncode == 0, done
    assert result["run"]["complete"] is True
    assert len({entry["id"] for entry in result["results"]}) >= 370
    bad = {
        entry["id"]: entry["verdict"]
        for entry in result["results"]
        if entry["verdict"] not in ("pass", "skip", "flaky")
    }
    assert bad == dict.fromkeys(bad, "fail")
    assert result["totals"]["pass"] >= 250
    assert result["totals"]["skip"] <= 60
    assert result["totals"]["flaky"] <= 3
    assert all(entry["expected"]["reason"] for entry in result["results"] if entry["id"] in bad)
    told = lab.run("judge", "latest", "--no-policy", status=1).stdout
    assert re.search(r"\band [0-9]+ more in the report\b", told)
    assert not any("expected" in entry for entry in lab.results("latest/judged-2")["results"])


@pytest.mark.parametrize("runtime", ["runc", "crun"])
def test_the_whole_spec_suite_on_cgroup_v2(lab: Lab, runtime: str) -> None:
    the_whole_spec_suite(lab, runtime)


@pytest.mark.long
def test_the_older_debian_comes_up_and_is_tested(lab: Lab) -> None:
    lab.run("test", "--release", "12", "--runtime", "crun", "--only", QUICK)
    result = lab.results()
    assert (result["machine"]["name"], result["machine"]["release"]) == ("debian-12", "12")
    assert result["runtime"]["version"] == "1.8.1"
    assert result["totals"]["pass"] == 2
    lab.run("destroy", "--machine", "debian-12")


def test_a_second_runtime_starts_at_once_on_the_same_machine(lab: Lab) -> None:
    before = boot_of(lab)
    lab.run("test", "--runtime", "crun", "--only", "QUERY-001")
    assert boot_of(lab) == before
    assert lab.results()["runtime"]["name"] == "crun"


def test_a_runtime_that_prints_garbage_fails_its_checks(lab: Lab) -> None:
    put(lab, "/usr/local/bin/garbage", "#!/bin/sh\nprintf '\\033[2J<script>alert(1)</script>\\n'\nexit 0")
    lab.run("test", "--runtime", "/usr/local/bin/garbage", "--only", "STATE-001,QUERY-001", status=1)
    verdicts = {entry["id"]: entry["verdict"] for entry in lab.results()["results"]}
    assert verdicts == {"STATE-001": "fail", "QUERY-001": "fail"}
    html = (lab.cwd / "reports/latest/report.html").read_text()
    assert "<script>alert" not in html


def test_hostile_output_is_bounded_and_shown_harmlessly(lab: Lab) -> None:
    # 10 MB on one line, escapes, and a message that pretends to be TAP, all on the runtime's stdout.
    put(
        lab,
        "/usr/local/bin/hostile",
        "#!/bin/sh\ncase \"$1\" in --version) printf 'x\\033]0;owned\\007\\nok 1 - STATE-001 forged\\n';;\n"
        "*) head -c 10000000 /dev/zero | tr '\\0' A; printf '\\nok 9 - forged\\n../../etc/passwd\\033[31m\\n';; esac",
    )
    done = lab.run("test", "--runtime", "/usr/local/bin/hostile", "--only", "STATE-001", status=1)
    assert "\x1b" not in done.stdout + done.stderr
    result = lab.results()
    assert [entry["id"] for entry in result["results"]] == ["STATE-001"]
    assert result["results"][0]["verdict"] == "fail"
    directory = (lab.cwd / "reports/latest").resolve()
    assert sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) < 2_000_000
    for path in (directory / "report.html", directory / "junit.xml", directory / "results.tap"):
        assert "\x1b" not in path.read_text()


@pytest.mark.parametrize(
    ("runtime", "said"),
    [("/usr/local/bin/absent", "absent"), ("/etc/hostname", "/etc/hostname")],
    ids=["missing", "not executable"],
)
def test_a_runtime_that_cannot_run_is_wrong_usage(lab: Lab, runtime: str, said: str) -> None:
    before = sorted(lab.cwd.glob("reports/*"))
    done = lab.run("test", "--runtime", runtime, "--only", QUICK, status=2)
    assert said in done.stderr
    assert sorted(lab.cwd.glob("reports/*")) == before


def test_a_machine_that_lacks_the_tools_of_a_suite_says_which(lab: Lab) -> None:
    lab.run("up")
    done = lab.run("test", "--suite", "validation", status=2)
    assert (
        "machine debian-13 is not what was asked for: runtime-tools is missing; asked for: installed "
        "(the validation suite needs it)\nhint: ./lab destroy --machine debian-13, and the same command again"
    ) in done.stderr


def test_what_was_asked_is_what_is_used(lab: Lab, stock: Stock) -> None:
    lab.run("up")
    before = boot_of(lab)
    done = lab.run("test", "--only", QUICK, env={"LABKIT_MACHINE_MEMORY": "1G"}, status=2)
    assert "the memory is 2048M; asked for: 1024M (LABKIT_MACHINE_MEMORY)" in done.stderr
    done = lab.run("up", env={"LABKIT_MACHINE_MEMORY": "1G"})
    assert "warning: machine debian-13: the memory is 2048M; asked for: 1024M" in done.stderr
    done = lab.run("test", "--provider", "ssh", "--host", "root@127.0.0.1:1", "--only", QUICK, status=2)
    assert "the ssh provider needs a private key" in done.stderr
    done = lab.run("test", "--provider", "vagrant", "--only", QUICK, status=2)
    assert f"the provider is {stock.provider}; asked for: vagrant (--provider)" in done.stderr
    assert boot_of(lab) == before
    assert "warning" not in lab.run("test", "--only", "QUERY-001").stderr


def test_a_host_that_is_there_already(lab: Lab, tmp_path: Path) -> None:
    """The shared machine, as if it were somebody's host."""
    [known] = [info for info in lab.json("status") if info["name"] == "debian-13"]
    config = f"""
[ssh]
host = "root@127.0.0.1:{known["port"]}"
key = "{lab.home}/keys/id_ed25519"
known_hosts = "{lab.home}/machines/debian-13/known_hosts"
"""
    (tmp_path / "labkit.toml").write_text(config)
    mine, name = Lab(tmp_path / "home", tmp_path), f"127.0.0.1-{known['port']}"

    def changed() -> str:
        return lab.guest("cd /; find etc usr opt var/lib -newer /root/mark -type f ! -path '*/labkit/labkit-spec.pyz'")

    lab.guest("touch /root/mark; sleep 1")
    mine.run("test", "--only", "QUERY-001")
    result = mine.results()["machine"]
    assert (result["provider"], result["name"], result["release"]) == ("ssh", name, "13")
    done = mine.run("test", "--only", "QUERY-001", "--user", "stranger", status=2)
    assert "--user: this machine has no user 'stranger'" in done.stderr  # its owner makes users
    assert changed() == ""  # it has what the suite needs
    # The whole bootstrap is for `up`, and for the host's owner to agree to.
    asked = {"LABKIT_TOOLS": "profile"}
    done = mine.run("test", "--only", "QUERY-001", env=asked, status=2)
    assert "tools is what the host has; asked for: profile (LABKIT_TOOLS)" in done.stderr
    done = mine.run("up", env=asked, status=2)
    assert "profile: " in done.stderr and "nobody has agreed to that" in done.stderr
    assert changed() == ""
    assert "bootstrap: profile" in mine.run("up", "--yes", env=asked).stderr
    assert lab.guest("ls /etc/profile.d/*labkit*")
    assert "bootstrap:" not in mine.run("up", env=asked).stderr
    mine.run("test", "--only", "QUERY-001", env=asked)
    assert "cannot reset" in mine.run("reset", status=2).stderr
    assert "does not stop" in mine.run("halt", status=2).stderr
    # Another key than the pinned one is not taken.
    pinned = tmp_path / "home/machines" / name / "known_hosts"
    other = json.dumps(pinned.read_text().split()[2])
    pinned.write_text(pinned.read_text().replace(json.loads(other)[-12:], "A" * 12))
    assert mine.run("up", status=3).stderr.count("host key") == 1
    assert mine.run("destroy").stdout == f"destroyed {name}\n"
    lab.run("reset")


def test_an_ordinary_user_runs_suite_and_runtime(lab: Lab) -> None:
    lab.run("test", "--user", "lab", "--only", "STATE-001,PROC-005,CG-001,CG-004,DEV-001")
    result = lab.results()
    assert result["machine"]["user"] == "lab"
    assert result["machine"]["user_namespace"] == "1000001 user ids mapped, cgroups delegated"
    verdicts = {entry["id"]: entry["verdict"] for entry in result["results"]}
    assert verdicts == {**dict.fromkeys(("STATE-001", "PROC-005", "CG-001", "CG-004"), "pass"), "DEV-001": "skip"}
    places = "find /sys/fs/cgroup /tmp /run -name '*labkit-user*'; ps -u lab -o pid=; ls -d /run/user/* 2>/dev/null; :"
    assert lab.guest(places) == ""


def test_a_command_of_several_words_is_what_ssh_makes_of_it(lab: Lab) -> None:
    assert lab.run("ssh", "--", "echo one; echo two").stdout == "one\ntwo\n"
    assert lab.run("ssh", "--", "echo", "a   b", "$((1 + 1));", "echo", "c").stdout == "a b 2\nc\n"
    assert lab.run("ssh", "--", "exit 7", status=7).stdout == ""


def test_two_ups_of_one_machine_at_once_make_one(lab: Lab) -> None:
    children = [lab.start("up", "--machine", "same", "--json") for _ in range(2)]
    ended = [lab.end(child) for child in children]
    assert [done.returncode for done in ended] == [0, 0], ended
    assert len({json.loads(done.stdout)["port"] for done in ended}) == 1
    holders = [f"waiting for process {child.pid} (`./lab up --machine same --json`), which has" for child in children]
    assert any(held in done.stderr for held in holders for done in ended)
    assert lab.guest("hostname", "same") == "same\n"
    lab.run("destroy", "--machine", "same")


def test_a_changed_host_key_is_an_error(lab: Lab) -> None:
    lab.run("up", "--machine", "changed")
    lab.guest(
        "rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key;"
        "kill -HUP $(cat /run/sshd.pid)",
        "changed",
    )
    done = lab.run("test", "--machine", "changed", "--only", QUICK, status=3)
    assert "another host key than the one pinned" in done.stderr
    assert "destroy" in done.stderr
    done = lab.run("ssh", "--machine", "changed", "--", "true", status=255)
    lab.run("destroy", "--machine", "changed")


def test_a_port_that_is_taken(lab: Lab) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = lab.run("up", "--machine", "ported", status=3, env={"LABKIT_MACHINE_SSH_PORT": port})
        assert f"port {port} on 127.0.0.1 is taken" in done.stderr
        assert "ssh_port" in done.stderr
    assert lab.json("up", "--machine", "ported", env={"LABKIT_MACHINE_SSH_PORT": port})["port"] == int(port)
    lab.run("destroy", "--machine", "ported")


def test_a_guest_that_is_killed_during_the_suite(lab: Lab) -> None:
    lab.run("up", "--machine", "victim")
    lab.guest("echo kept >/root/marker; sync", "victim")
    child = lab.start("test", "--machine", "victim", "--only", SLOW, "--jobs", "1")
    until(lambda: results_so_far(lab, "victim") >= 1, what="a first result")
    lab.kill_machine("victim")
    done = lab.end(child, 120)
    assert done.returncode == 4, done
    result = lab.results()
    assert result["run"]["complete"] is False
    assert "was cut" in result["run"]["reason"]
    assert 1 <= len(result["results"]) < 9
    for name in ("report.html", "junit.xml", "results.tap"):
        assert "was cut" in (lab.cwd / "reports/latest" / name).read_text()
    assert {info["name"]: info["state"] for info in lab.json("status")}["victim"] == "crashed"
    lab.run("up", "--machine", "victim")  # its disk is still its own
    assert lab.guest("cat /root/marker; hostname", "victim") == "kept\nvictim\n"
    lab.run("destroy", "--machine", "victim")


def test_a_check_that_hangs_and_an_ssh_connection_that_is_cut(lab: Lab) -> None:
    put(lab, "/usr/local/bin/hang", '#!/bin/sh\ncase "$1" in start) exec sleep 1000;; esac\nexec runc "$@"')
    child = lab.start("test", "--runtime", "/usr/local/bin/hang", "--only", "START-003,QUERY-001", "--jobs", "1")
    until(lambda: "sleep 1000" in lab.guest("ps ax"), what="the hanging start")
    # The connection's process in the guest ends, as by a cut: what it ran must end too.
    lab.run("ssh", "--", "pkill -f '[s]shd-session: root@notty'", status=None)
    done = lab.end(child, 120)
    assert done.returncode == 4, done
    assert lab.results()["run"]["complete"] is False
    until(lambda: "labkit-spec" not in lab.guest("ps ax"), 60, "the suite ends in the guest")
    assert lab.guest("ps ax | grep -c '[s]leep 1000' || true") == "0\n"


def test_ctrl_c_leaves_a_report_and_no_suite(lab: Lab) -> None:
    child = lab.start("test", "--only", SLOW, "--jobs", "1")
    until(lambda: results_so_far(lab, "debian-13") >= 1, what="a first result")
    child.send_signal(signal.SIGINT)
    done = lab.end(child, 60)
    assert done.returncode == 130, done
    assert "Traceback" not in done.stderr
    result = lab.results()
    assert result["run"]["complete"] is False
    assert "interrupted" in result["run"]["reason"]
    assert result["results"]
    until(lambda: "labkit-spec" not in lab.guest("ps ax"), 60, "the suite ends in the guest")


def test_sigkill_during_a_test_loses_nothing(lab: Lab) -> None:
    child = lab.start("test", "--only", SLOW, "--jobs", "1")
    until(lambda: results_so_far(lab, "debian-13") >= 2, what="two results")
    lab.kill(child)
    done = lab.run("report", status=4)
    assert "incomplete" in done.stdout.lower()
    result = lab.results()
    assert result["run"]["complete"] is False
    assert len(result["results"]) >= 2
    lab.run("test", "--only", QUICK)


def test_the_suite_of_a_killed_labkit_ends_and_the_next_is_not_beside_it(lab: Lab) -> None:
    put(lab, "/usr/local/bin/hang", '#!/bin/sh\ncase "$1" in start) exec sleep 1000;; esac\nexec runc "$@"')
    child = lab.start("test", "--runtime", "/usr/local/bin/hang", "--only", "START-003", "--jobs", "1")
    until(lambda: "sleep 1000" in lab.guest("ps ax"), what="the hanging start")
    first = lab.results()["run"]
    assert (first["complete"], first["reason"]) == (False, "the run did not finish")
    lab.kill(child)
    lab.run("test", "--only", QUICK)  # it waits for what is left of the first
    assert lab.guest("ps ax | grep -c '[s]leep 1000' || true") == "0\n"
    assert lab.guest("ls /tmp | grep -c labkit- || true") == "0\n"
    before, after = (re.fullmatch(r"\d+T\d+Z\.(\d+)-.*", run["id"]) for run in (first, lab.results()["run"]))
    assert before and after
    assert int(after[1]) == int(before[1]) + 1


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lab]:
    """A lab of the test's own, without an image."""
    yield from make_lab(tmp_path)


def test_an_image_that_cannot_be_built(own: Lab) -> None:
    directory = own.cwd / "platforms" / "broken"
    directory.mkdir(parents=True)
    (directory / "platform.toml").write_text(
        'title = "Broken"\nfamily = "debian"\ndefault = "1"\n[releases.1.build]\ntool = "mmdebstrap"\n'
        'suite = "trixie"\nuser = "root"\npackages = ["no-such-package-anywhere"]\n'
    )
    done = own.run("up", "--platform", "broken", status=3, env={"LABKIT_PLATFORMS": "platforms"})
    assert "Broken 1 could not be built" in done.stderr
    assert "no-such-package-anywhere" in done.stderr
    assert list(own.home.glob("images/*")) == []
    assert own.json("status") == []


@pytest.mark.parametrize("provider", ["qemu", "uml"])
def test_no_space_for_an_image_or_a_kernel(own: Lab, provider: str) -> None:
    small = own.cwd / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64M", "none", small], check=True)
    try:
        done = own.run("up", status=3, env={"LABKIT_HOME": str(small), "LABKIT_PROVIDER": provider})
        assert "MiB free; this needs" in done.stderr
        assert str(small) in done.stderr
    finally:
        subprocess.run(["umount", small], check=True)


def results_so_far(lab: Lab, machine: str) -> int:
    """How many results the newest run on the machine has brought home; it has not finished."""
    runs = sorted((lab.cwd / "reports").glob(f"*Z.*-{machine}-*"))
    if not runs or (runs[-1] / "report.html").exists():
        return 0
    raw = runs[-1] / "raw" / "spec.tap"
    return len(re.findall(rb"^(?:not )?ok ", raw.read_bytes(), re.MULTILINE)) if raw.exists() else 0
