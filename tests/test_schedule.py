"""What starts a night: units of systemd, a line for cron, and jobs for CI, held to the tools that read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from labkit.cli.flags import FLAGS
from labkit.core.errors import UsageError
from labkit.provision import schedule
from labkit.provision.schedule import CRON, SERVICE, TIMER, Nightly
from tests.test_cli import environ as environ
from tests.test_cli import labkit

NASTY = "a dir; with $HOME %h \"q\" 'q' {x} and #"


def program(name: str) -> str:
    """The path of a program; skips where it is not there. Those of Python stand beside this interpreter."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=places)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def run(
    *argv: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def written(place: Path, environ: dict[str, str], *words: str) -> dict[str, str]:
    """What `render` writes with these words, in the directory place."""
    done = labkit("render", *words, "--out", "out", environ=environ, cwd=place)
    assert done.returncode == 0, done.stderr
    paths = done.stdout.splitlines()
    assert paths and all((place / path).is_file() for path in paths)
    return {path.removeprefix("out/"): (place / path).read_text() for path in paths}


# --- systemd and cron


@pytest.mark.parametrize("name", ["plain", NASTY])
def test_systemd_takes_the_units(tmp_path: Path, environ: dict[str, str], name: str) -> None:
    place = tmp_path / name
    place.mkdir()
    units = written(place, {**environ, "LABKIT_RUNTIME": '/opt/50% $x "y"'}, "--timer")
    assert set(units) == {SERVICE, TIMER, CRON}
    analyze = program("systemd-analyze")
    done = run(analyze, "verify", "--man=no", place / "out" / SERVICE, place / "out" / TIMER)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_systemd_reads_is_what_was_meant(tmp_path: Path, environ: dict[str, str]) -> None:
    place = tmp_path / NASTY
    place.mkdir()
    text = written(place, {**environ, "LABKIT_RUNTIME": '/opt/50% $x "y"'}, "--timer")[SERVICE]
    lines = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"(Working|Exec|User)", line))
    assert lines["WorkingDirectory"].replace("%%", "%") == str(place)
    assert re.fullmatch(r'"/[^"]+/lab" nightly', lines["ExecStart"])
    assert 'Environment="LABKIT_RUNTIME=/opt/50%% $x \\"y\\""' in text


def test_what_the_units_must_have(tmp_path: Path, environ: dict[str, str]) -> None:
    units = written(tmp_path, environ, "--timer")
    assert "\nPersistent=true\n" in units[TIMER] and "\nWantedBy=timers.target\n" in units[TIMER]
    service = units[SERVICE]
    assert re.search(r"^UnsetEnvironment=.*\bNOTIFY_SOCKET\b", service, re.M) and "\nNotifyAccess=none\n" in service
    settings = {line.split("=")[0] for line in service.splitlines() if re.match(r"[A-Z]\w+=", line)}
    # Each of these takes away what a machine or an image is made with; the file says which.
    assert not settings & {
        "PrivateDevices", "DevicePolicy", "DeviceAllow", "NoNewPrivileges", "RestrictNamespaces", "LockPersonality",
        "ProtectKernelTunables", "ProtectControlGroups", "ProtectProc", "ProcSubset", "MemoryDenyWriteExecute",
        "RestrictSUIDSGID", "SystemCallFilter", "CapabilityBoundingSet", "ProtectKernelLogs", "ProtectClock",
        "PrivateNetwork", "RestrictAddressFamilies", "ProtectHome", "PrivateUsers",
    }  # fmt: skip
    assert "\nPrivateTmp=" not in service  # the home is below /tmp
    kept = schedule.units(Nightly(["/srv/lab"], "/srv", "me", {}, ["/srv"]))[SERVICE]
    assert "\nPrivateTmp=yes\n" in kept


def test_secrets_are_not_written_and_that_is_told(tmp_path: Path, environ: dict[str, str]) -> None:
    more = {"LABKIT_TELL_WEBHOOK": "https://x/hunter2", "LABKIT_TELL_AFTER": "2"}
    done = labkit("render", "--timer", "--out", "out", environ={**environ, **more}, cwd=tmp_path)
    assert "LABKIT_TELL_WEBHOOK" in done.stderr and "hunter2" not in done.stderr
    texts = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "hunter2" not in texts and "LABKIT_TELL_AFTER=2" in texts


def test_cron_runs_what_was_meant(tmp_path: Path) -> None:
    place = tmp_path / NASTY
    place.mkdir()
    fake = place / "50%lab"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$PWD" "$LABKIT_RUNTIME" "$@"\n')
    fake.chmod(0o755)
    text = schedule.units(Nightly([str(fake)], str(place), "me", {"LABKIT_RUNTIME": "100% 'x'"}))[CRON]
    [line] = [line for line in text.splitlines() if line and not line.startswith("#")]
    minute, hour, day, month, weekday, command = line.split(None, 5)
    assert (minute, hour, day, month, weekday) == ("30", "2", "*", "*", "*")
    # As cron(8) does: an unescaped % ends the command, and \% is one.
    parts = re.split(r"(?<!\\)%", command)
    assert len(parts) == 1
    done = run("/bin/sh", "-c", command.replace("\\%", "%"), env={"PATH": "/usr/bin:/bin"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (place / "nightly.log").read_text().splitlines() == [str(place), "100% 'x'", "nightly"]


@pytest.mark.parametrize("name", ["back\\slash", "new\nline", "end ", "\u202e", "e\x1bsc"])
def test_names_that_no_unit_can_have_are_refused(name: str) -> None:
    for nightly in (Nightly([f"/{name}"], "/", "me", {}), Nightly(["/lab"], f"/{name}", "me", {}),
                    Nightly(["/lab"], "/", "me", {"LABKIT_HOME": name})):  # fmt: skip
        with pytest.raises(UsageError, match="cannot be written into a unit file"):
            schedule.units(nightly)


# --- CI

SYSTEMS = FLAGS["ci"].choices


def job(place: Path, environ: dict[str, str], system: str) -> tuple[Path, str]:
    [(name, text)] = written(place, environ, "--ci", system).items()
    return place / "out" / name, text


def test_every_system_has_a_template() -> None:
    assert set(SYSTEMS) == set(schedule.CI)


def test_actionlint_has_nothing_against_the_workflow(tmp_path: Path, environ: dict[str, str]) -> None:
    path, _ = job(tmp_path, environ, "github")
    shellcheck = shutil.which("shellcheck") or ""
    done = run(program("actionlint"), "-no-color", "-shellcheck", shellcheck, path)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(("system", "schema"), [("github", "vendor.github-workflows"), ("gitlab", "vendor.gitlab-ci")])
def test_the_jobs_are_what_their_schemas_say(tmp_path: Path, environ: dict[str, str], system: str, schema: str) -> None:
    path, _ = job(tmp_path, environ, system)
    done = run(program("check-jsonschema"), "--builtin-schema", schema, path)
    assert done.returncode == 0, done.stdout


def test_the_workflow_keeps_what_a_failed_night_leaves(tmp_path: Path, environ: dict[str, str]) -> None:
    _, text = job(tmp_path, environ, "github")
    value = yaml.safe_load(text)
    assert value["permissions"] == {"contents": "read"}
    steps = value["jobs"]["nightly"]["steps"]
    assert all(re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", step["uses"]) for step in steps if "uses" in step)
    night = next(number for number, step in enumerate(steps) if step.get("name") == "Night")
    assert all("always()" in step["if"] for step in steps[night + 1 :])
    uploads = [step for step in steps[night:] if "upload-artifact" in step.get("uses", "")]
    assert len(uploads) == 1
    # No text of an event or an input is put into a script, where it would be code.
    assert not [step for step in steps if "${{" in step.get("run", "")]


def scripts(system: str, text: str) -> list[str]:
    value = yaml.safe_load(text)
    if system == "github":
        return [step["run"] for step in value["jobs"]["nightly"]["steps"] if "run" in step]
    [(_, made)] = [(name, one) for name, one in value.items() if isinstance(one, dict) and "script" in one]
    return ["\n".join(made["before_script"] + made["script"]), "\n".join(made["after_script"])]


@pytest.mark.parametrize("system", SYSTEMS)
def test_shellcheck_has_nothing_against_the_shell(tmp_path: Path, environ: dict[str, str], system: str) -> None:
    shellcheck = program("shellcheck")
    for number, script in enumerate(scripts(system, job(tmp_path, environ, system)[1])):
        path = tmp_path / f"{number}.sh"
        path.write_text(script)
        done = run(shellcheck, "--shell", "bash" if system == "github" else "sh", path)
        assert done.stdout == "", script


# In place of what would change this host, or take a night: says what it was asked.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >>"$TOLD"
case "$(basename "$0") $*" in
    "lab nightly"*)
        mkdir -p reports/20261126T020000Z.9-new reports/nights/20261126.1
        echo '<testsuites/>' >reports/20261126T020000Z.9-new/junit.xml
        ln -sfn 20261126T020000Z.9-new reports/latest
        exit 1 ;;
    "sudo tee"*) cat >/dev/null ;;
esac
"""


def dry_run(
    place: Path, texts: list[str], more: dict[str, str], shell: list[str], *, own: bool = True
) -> tuple[list[int], list[str]]:
    """Run the steps in a new directory, as a runner does; their statuses, and what the stand-ins were asked."""
    bin_ = place / "bin"
    bin_.mkdir()
    work = place / "work"
    (work / "reports/20261125T020000Z.8-old").mkdir(parents=True)
    (work / "reports/20261125T020000Z.8-old/junit.xml").write_text("<testsuites/>")
    for path in [work / "reports", *(work / "reports").rglob("*")]:
        os.utime(path, (1, 1))
    for path in [*(bin_ / name for name in ("sudo", "udevadm", "apt-get")), *([work / "lab"] if own else [])]:
        path.write_text(STAND_IN)
        path.chmod(0o755)
    told = place / "told"
    told.touch()
    home = place / "user"
    home.mkdir()
    base = {"PATH": f"{bin_}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(home), "TOLD": str(told), **more}
    statuses = []
    for text in texts:
        if "GITHUB_ENV" in base and Path(base["GITHUB_ENV"]).exists():
            base |= dict(line.split("=", 1) for line in Path(base["GITHUB_ENV"]).read_text().splitlines())
        done = run(*shell, text, cwd=work, env=base)
        statuses.append(done.returncode)
        assert done.stderr == "", done.stderr
    return statuses, told.read_text().splitlines()


@pytest.mark.parametrize("only", ["", "debian-13/*; reboot"])
def test_the_steps_of_the_workflow_run(tmp_path: Path, environ: dict[str, str], only: str) -> None:
    texts = scripts("github", job(tmp_path, environ, "github")[1])
    temp = tmp_path / "temp"
    temp.mkdir()
    files = {name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_OUTPUT")}
    more = {**files, "RUNNER_TEMP": str(temp), "ONLY": only}
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]  # as runners have it
    statuses, told = dry_run(tmp_path, texts, more, shell)
    assert statuses == [0, 0, 1, 0]  # the night had failures
    asked = [line for line in told if line.startswith("lab ")]
    night = "lab nightly --format github" + (f" --only {only}" if only else "")
    assert asked == ["lab --version", "lab doctor", night, "lab gc --keep 3"]
    assert "sudo udevadm trigger --name-match=kvm" in told
    kept = {str(path.relative_to(temp / "night")) for path in (temp / "night").rglob("*")}
    assert "reports/20261126T020000Z.9-new/junit.xml" in kept and "reports/nights/20261126.1" in kept
    assert not [path for path in kept if "old" in path or "latest" in path]
    assert re.fullmatch(r"contents=[0-9a-f]{16}\n", (tmp_path / "GITHUB_OUTPUT").read_text())


def test_the_key_of_the_cache_is_what_is_in_it(tmp_path: Path, environ: dict[str, str]) -> None:
    text = scripts("github", job(tmp_path, environ, "github")[1])[-1]
    home = tmp_path / "user/.local/share/labkit"
    keys = []
    for made in ("images/k1/live-h-1/state", "machines/debian-13/disk", "images/k1/live-h-1/state", "images/k2/disk"):
        (home / made).parent.mkdir(parents=True, exist_ok=True)
        (home / made).touch()
        output = tmp_path / "output"
        output.unlink(missing_ok=True)
        (tmp_path / "started").touch()
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "user"), "RUNNER_TEMP": str(tmp_path),
               "GITHUB_OUTPUT": str(output)}  # fmt: skip
        assert run("bash", "-eo", "pipefail", "-c", text, cwd=tmp_path, env=env).returncode == 0
        keys.append(output.read_text())
    assert keys[0] == keys[1] == keys[2] != keys[3]


def test_the_job_of_gitlab_runs(tmp_path: Path, environ: dict[str, str]) -> None:
    texts = scripts("gitlab", job(tmp_path, environ, "gitlab")[1])
    statuses, told = dry_run(tmp_path, texts, {"CI_PROJECT_DIR": str(tmp_path / "work")}, ["/bin/sh", "-ec"])
    assert statuses == [1, 0]
    assert [line for line in told if line.startswith("lab ")] == [
        "lab --version", "lab doctor", "lab nightly", "lab gc --keep 3"
    ]  # fmt: skip
    assert [path.name for path in (tmp_path / "work/junit").iterdir()] == ["20261126T020000Z.9-new.xml"]


def test_the_job_of_gitlab_has_its_reports(tmp_path: Path, environ: dict[str, str]) -> None:
    value: dict[str, Any] = yaml.safe_load(job(tmp_path, environ, "gitlab")[1])
    made = value["labkit-nightly"]
    assert made["artifacts"]["when"] == "always" and made["artifacts"]["reports"] == {"junit": "junit/*.xml"}
    assert all(cache["when"] == "always" for cache in made["cache"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ci", "jenkins"), "--ci is 'jenkins', must be github or gitlab"),
        (("--ci", "github", "--timer"), "--timer takes no --ci"),
        (("--timer", "--platform", "debian"), "--timer takes no --platform"),
        (("--ci", "gitlab", "--release", "13"), "--ci takes no --release"),
    ],
)
def test_what_excludes_each_other(tmp_path: Path, environ: dict[str, str], words: tuple[str, ...], said: str) -> None:
    done = labkit("render", *words, environ=environ, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr
    assert not (tmp_path / "rendered").exists()
