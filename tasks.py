"""The tasks of ./lab: words in, one use case, text out. `./lab --list` names them, `./lab TASK --help` explains one.

Each imports its use case when it runs: `--list`, `--help` and completion must answer at once.
"""

from __future__ import annotations

import functools
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.cli.console import table
from labkit.cli.flags import Call, lab_task, words_after_dashes
from labkit.core.errors import UsageError
from labkit.core.text import amount, count, printable

if TYPE_CHECKING:
    from labkit.cli.console import Console
    from labkit.machines.base import MachineInfo
    from labkit.results.comparison import SideBySide
    from labkit.usecases.nightly import Outlook
    from labkit.usecases.run import Outcome

_MACHINE = "platform release arch provider machine host"


@lab_task(f"{_MACHINE} untrusted discard_state yes verbose json")
def up(call: Call) -> None:
    """Start a clean machine, made on first use.

    Examples:
        ./lab up
        ./lab up --platform fedora --release 43
        ./lab up --machine mine --json
    """
    from labkit.usecases import machines

    with call.console() as console:
        info = machines.up(call.settings, console, discard_state=call.words["discard_state"])
    call.answer(info.to_json(), _machines([info]))


@lab_task(
    f"{_MACHINE} machines runtime registry runtime_arg runtime_name untrusted suite engine spec only skip failed jobs "
    "repeat limit user reference watch no_confirm no_policy yes verbose format json"
)
def test(call: Call) -> None:
    """Run a conformance suite on a runtime, bring reports home.

    Exit status: 0 all as expected, 1 a failure that the policy does not expect, 2 wrong usage, 3 the lab failed,
    4 incomplete, 130 interrupted.

    Examples:
        ./lab test --runtime crun
        ./lab test --runtime ./runc --only STATE-001,KILL-002
        ./lab test --runtime runc --runtime ./runc
        ./lab test --platform debian --release 12 --json
        ./lab test --suite validation --only 'linux_cgroups_*' --skip not-ours.txt
        ./lab test --suite validation --failed
        ./lab test --machines 2
        ./lab test --runtime crun --format github
        ./lab test --suite distribution --registry docker-registry
    """

    from labkit.usecases.test import test_all

    machines = call.number("machines", 64) or 1
    if machines > 1:
        call.refuse_beside("machines", ["host"])
    call.refuse_beside("watch", ["json", "format", "failed"])
    words, selection = call.subjects(), call.selection()

    def run(console: Console) -> Sequence[Outcome]:
        return test_all(
            call.settings,
            console,
            selection,
            words,
            failed=bool(call.words["failed"]),
            with_policy=not call.words["no_policy"],
            machines=machines,
            runtime_name=call.words["runtime_name"] or "",
            reference=call.words["reference"],
        )

    if call.words["watch"]:
        from labkit.usecases import watch

        paths = watch.watched(words or [call.settings.runtime], call.settings.suite)
        with call.console() as console:
            status = watch.watch(paths, lambda: run(console), lambda outcomes: _shown(call, outcomes), console)
        sys.exit(status)
    with call.console() as console:
        outcomes = run(console)
    _told(call, outcomes, _side_by_side(outcomes))


@lab_task("matrix only checks on scheduler plan resume yes verbose format json")
def nightly(call: Call) -> None:
    """Run a matrix of cells, and tell what changed since last night.

    A cell is a platform, a provider, a runtime and a suite; [matrix] of labkit.toml lists them, else they are Debian 13
    and 12 with runc and crun. Each has a machine of its own, as many at a time as this host bears.

    Exit status: 0 all as expected, 1 a failure that the policy does not expect, 2 wrong usage, 3 the lab failed for a
    cell, 4 incomplete, 130 interrupted.

    Examples:
        ./lab nightly --plan
        ./lab nightly --only '*/crun/*'
        ./lab nightly --matrix night.toml --json
        ./lab nightly --on lab1,lab2
        ./lab nightly --resume
        ./lab nightly --format github
    """
    from labkit.usecases import nightly as night

    for other in ("matrix", "only", "checks", "plan"):
        call.refuse_beside("resume", [other])
    only, checks = call.listed("only"), call.listed("checks")
    if call.words["plan"]:
        with call.console():
            outlook = night.outlook(call.settings, only=only, checks=checks)
        _planned(call, outlook)
        return
    with call.console() as console:
        done = night.nightly(call.settings, console, only=only, checks=checks, resume=bool(call.words["resume"]))

    def text() -> str:
        from labkit.reports import night as report

        return report.text(done.night, terminal=sys.stdout.isatty(), directory=done.directory).rstrip("\n")

    call.answer(dict(done.document), text)
    if call.workflow:
        from labkit.reports import as_github
        from labkit.reports import night as report

        call.workflow.summarize(lambda most: report.as_markdown(done.night, most))
        call.workflow.annotate(as_github.of_night(done.night))
    sys.exit(done.exit_status)


@lab_task(f"{_MACHINE} runtime runtime_arg untrusted suite spec good bad only no_confirm resume yes verbose json")
def bisect(call: Call) -> None:
    """Find the commit with which a check of a runtime began to fail.

    --runtime is a name from `runtimes`, a URL, or a git tree of this host, which is only read. Each commit is
    built, sent to the machine and tested there; what does not build is skipped. Both ends are tested first.

    Exit status: 0 found, 2 wrong usage, 3 the lab failed, 4 not found, 130 interrupted.

    Examples:
        ./lab bisect --runtime runc --good v1.2.0 --bad main --only HOOK-007
        ./lab bisect --runtime ./crun --good HEAD~50 --bad HEAD --only 'HOOK-007:poststop'
        ./lab bisect --resume
    """
    from labkit.reports import as_bisection
    from labkit.usecases import bisect as finder

    words = call.words
    if words["resume"]:
        for other in (
            *_MACHINE.split(),
            "runtime",
            "runtime_arg",
            "suite",
            "spec",
            "good",
            "bad",
            "only",
            "no_confirm",
        ):
            call.refuse_beside("resume", [other])
    elif missing := [flag for flag in ("good", "bad", "only") if not words[flag]]:
        raise UsageError(
            f"bisect needs --{missing[0]}",
            hint="./lab bisect --runtime runc --good v1.2.0 --bad main --only HOOK-007; or --resume",
        )
    if len(words["runtime"]) > 1:
        raise UsageError("--runtime is given several times: one tree is bisected at a time")
    with call.console() as console:
        if words["resume"]:
            done = finder.resume(call.settings, console)
        else:
            runtime = next(iter(call.runtimes()), call.settings.runtime)
            only, finding = finder.words_of(words["only"])
            arguments, spec = tuple(words["runtime_arg"]), words["spec"] or ""
            confirm = not words["no_confirm"]
            asked = finder.Asked(runtime, words["good"], words["bad"], only, finding, arguments, spec, confirm)
            done = finder.bisect(call.settings, console, asked)
    value = {"folder": str(done.directory), **done.bisection.to_json()}
    call.answer(value, lambda: as_bisection.text(done.bisection, done.directory))
    sys.exit(done.exit_status)


@lab_task(f"{_MACHINE} verbose json")
def reset(call: Call) -> None:
    """Put a machine back to its clean state.

    Example: ./lab reset
    """
    from labkit.usecases import machines

    with call.console() as console:
        info = machines.reset(call.settings, console)
    call.answer(info.to_json(), _machines([info]))


@lab_task(f"{_MACHINE} verbose")
def halt(call: Call) -> None:
    """Stop a machine; `up` starts it again.

    Example: ./lab halt --platform fedora
    """
    from labkit.usecases import machines

    with call.console() as console:
        machines.halt(call.settings, console)


@lab_task(f"{_MACHINE} all verbose json")
def destroy(call: Call) -> None:
    """Remove a machine and all it holds; golden images stay.

    Examples:
        ./lab destroy --machine mine
        ./lab destroy --all
    """
    from labkit.usecases import machines

    call.refuse_beside("all", _MACHINE.split())
    with call.console() as console:
        names = machines.destroy(call.settings, console, everything=call.words["all"])
    call.answer(names, "\n".join(f"destroyed {name}" for name in names) or "nothing to destroy")


@lab_task(_MACHINE, after_dashes="COMMAND")
def ssh(call: Call) -> None:
    """Open a shell in a machine, or run a command there.

    As ssh does it, the words after -- are joined by spaces, and the machine's shell reads them: quote for both shells.

    Examples:
        ./lab ssh
        ./lab ssh --platform debian -- runc --version
        ./lab ssh -- 'cd /etc; ls *.conf | wc -l'
    """
    from labkit.usecases import machines

    machines.ssh(call.settings, words_after_dashes())


@lab_task("json")
def status(call: Call) -> None:
    """Show the machines of this lab.

    Example: ./lab status --json
    """
    from labkit.usecases import machines

    found = machines.status(call.settings)

    def text() -> str:
        from labkit.usecases.gc import caches

        sizes = caches(call.settings.home)
        parts = ", ".join(f"{name} {amount(size)}" for name, size in sizes.items() if size > 1 << 20)
        total = f"{amount(sum(sizes.values()))}{f' ({parts})' if parts else ''}"
        rows = [(it.name, it.state, _address(it), it.accelerator or "", amount(it.size or 0)) for it in found]
        shown = table([("MACHINE", "STATE", "ADDRESS", "ACCELERATOR", "SIZE"), *rows]) if found else "no machines"
        return "\n".join([shown, *_notes(found), f"caches: {total}; ./lab gc removes what nothing needs"])

    call.answer([info.to_json() for info in found], text)


@lab_task("dry_run keep verbose json")
def gc(call: Call) -> None:
    """Remove what no machine needs: old images, downloads, boxes.

    What a machine stands on stays, whatever its state, and what another labkit works on. What goes is made again when
    it is needed. Where nights.keep says what is kept of nights, the others go too, for good. Exit status: 3 if
    something could not be removed.

    Examples:
        ./lab gc --dry-run
        ./lab gc --keep 14
    """
    from labkit.usecases.gc import gc as collect

    days = call.number("keep", 36500)
    with call.console() as console:
        done = collect(call.settings, console, keep_days=days or 0, dry_run=bool(call.words["dry_run"]))
    words = {True: "would go" if done.dry_run else "removed", False: "stays"}
    things = sorted(done.things, key=lambda thing: (not thing.remove, thing.kind, thing.name))
    rows = [(words[thing.remove], amount(thing.size), thing.kind.value, thing.name, thing.why) for thing in things]
    total = f"{'would free' if done.dry_run else 'freed'} {amount(done.freed)}; {amount(done.kept)} in caches stay"
    shown = table([("", "SIZE", "WHAT", "NAME", "WHY"), *rows]) if rows else "nothing in the caches"
    call.answer(done.to_json(), f"{shown}\n{total}")
    if done.failed:
        sys.exit(3)


@lab_task("run no_policy markdown format json")
def report(call: Call) -> None:
    """Judge a run again, the latest if none is named: `judge` by another name.

    Examples:
        ./lab report
        ./lab report --run ID
        ./lab report --markdown
        ./lab report --format github
    """
    from labkit.usecases.judge import judge as run_judge

    call.refuse_beside("markdown", ["format", "json"])
    _told(call, [run_judge(call.settings, call.words["run"], with_policy=not call.words["no_policy"])])


@lab_task(
    "no_policy only skip programs runtime runtime_name runtime_version cgroup ref platform profile format json",
    words="dir",
)
def judge(call: Call) -> None:
    """Judge saved output under today's policy, without a machine.

    Exit status as of `test`, the highest where there is output of several suites. Reports go into the run's directory;
    raw output from elsewhere is copied into a new one. Flags go before what the output says itself.

    Examples:
        ./lab judge reports/latest
        ./lab judge recordings/v0.9.0-crun-1.8.1-cgroup-v2 --json
        ./lab judge elsewhere --runtime crun --runtime-version 1.21 --cgroup v2 --ref master
        ./lab judge ci-logs.tar.xz --runtime youki --skip not-meant.txt
        ./lab judge log/kill.tap
        ./lab judge calls.jsonl --profile document
    """
    from labkit.suites.subset import Subset, read_list
    from labkit.usecases.judge import Said, judge_all

    call.refuse_beside("runtime_name", ["runtime"])
    flags = ("runtime_version", "cgroup", "ref", "platform", "profile")
    if len(call.words["runtime"]) > 1:
        raise UsageError("--runtime is given several times: what is judged is of one runtime")
    name = call.words["runtime_name"] or next(iter(call.words["runtime"]), None)
    facts = {"runtime": str(name)} if name else {}
    facts |= {flag.replace("_", "-"): str(call.words[flag]) for flag in flags if call.words[flag]}
    programs = read_list(Path(call.words["programs"])) if call.words["programs"] else ()
    said = Said(facts, Subset(*call.meant(), programs))
    _told(call, judge_all(call.settings, call.words["dir"], with_policy=not call.words["no_policy"], said=said))


@lab_task("html markdown json", words="run_a run_b", rest="run_c")
def diff(call: Call) -> None:
    """Show what changed between two runs, or differs in several.

    Examples:
        ./lab diff ID latest
        ./lab diff ID-OF-RUNC ID-OF-CRUN ID-OF-YOUKI
        ./lab diff reports/ID recordings/v0.9.0-crun-1.8.1-cgroup-v2 --html diff.html
    """
    from labkit.reports import as_diff, as_table, files
    from labkit.usecases import judge as of_runs

    call.refuse_beside("markdown", ["json"])
    names = [call.words["run_a"], call.words["run_b"], *call.words["run_c"]]
    if len(names) == 2 and not call.words["markdown"]:
        compared = of_runs.diff(call.settings, *names)
        if call.words["html"] is not None:
            files.write(Path(call.words["html"]), as_diff.html(compared))
        call.answer(compared.to_json(), as_diff.text(compared).rstrip("\n"))
        return
    sides = of_runs.beside(call.settings, names)
    if call.words["html"] is not None:
        files.write(Path(call.words["html"]), as_table.html(sides))
    call.answer(sides.to_json(), lambda: _beside(call, sides))


@lab_task("reproduce full verbose json", words="of_run check_id")
def explain(call: Call) -> None:
    """Say why a check failed: what it demands, what it did, what it saw.

    With --reproduce a shell in the machine of the run, in a folder with the check's bundles and a script run.sh that
    does again what the check did; with --reproduce DIR that folder is written to DIR, for any host.

    Examples:
        ./lab explain latest HOOK-010
        ./lab explain ID CONF-006 --full
        ./lab explain latest HOOK-010 --reproduce
        ./lab explain latest HOOK-010 --reproduce /tmp/hook-010
    """
    from labkit.reports import as_explanation as shown
    from labkit.usecases import explain as use

    folder = call.words["reproduce"]
    with call.console() as console:
        found = use.explain(call.settings, call.words["of_run"], call.words["check_id"])
        if folder is True:
            call.refuse_beside("reproduce", ["json", "full"])
            use.enter(call.settings, found, console)
    if folder:
        script = use.write(found, Path(folder))
        call.answer({"script": str(script)}, str(script))
    else:
        call.answer(shown.to_json(found), lambda: shown.text(found, full=bool(call.words["full"])))


@lab_task("reason link expires wide file syntax shipped json", words="action", rest="word")
def policy(call: Call) -> None:
    """Write entries into your policy, or look them over.

    `add` writes what a run showed, its findings or assertions by name, into the file that `policy` in labkit.toml
    names, or a new one. The entry holds for that runtime, version, cgroup version and platform (--wide leaves one out).
    `import` reads lists of tests to be skipped: crun's, youki's, those of bats. `check` tells entries that met nothing,
    have expired, or hide more than one finding. Exit status of `check`: 1 where something is wrong.

    Examples:
        ./lab policy add latest STATE-001 --reason 'fixed in 1.6' --expires 2027-06-30
        ./lab policy add latest delete kill --reason 'upstream bug' --link https://github.com/opencontainers/runc/issues/1
        ./lab policy check
        ./lab policy import run-tests.sh --file crun.toml
    """
    from labkit.cli import policies

    policies.run(call)


@lab_task("verbose json", words="what")
def history(call: Call) -> None:
    """Show how a check, or a cell, has fared through all runs.

    A cell is what one run is about: PLATFORM-RELEASE/PROVIDER/RUNTIME/SUITE. Runs made by hand count as nights' do.

    Examples:
        ./lab history STATE-003
        ./lab history debian-13/uml/runc/spec
        ./lab history '*/crun/*' --json
    """
    from labkit.reports import as_history as shown
    from labkit.usecases import history as past

    with call.console() as console:
        found = past.about(call.settings, console, call.words["what"])
    value = {
        "cells": [shown.cell_json(it.cell, it.runs, it.durations, it.failing) for it in found.cells],
        "checks": [shown.check_json(it.cell, it.identity, it.title, it.spans, it.since) for it in found.checks],
    }
    texts = [shown.cell_text(it.cell, it.runs, it.durations, it.failing) for it in found.cells]
    texts += [shown.check_text(it.cell, it.identity, it.title, it.spans, it.since) for it in found.checks]
    call.answer(value, "\n\n".join(texts))


@lab_task("verbose json")
def flaky(call: Call) -> None:
    """List checks that are now good and now bad, the worst first.

    Example: ./lab flaky
    """
    from labkit.reports import as_history as shown
    from labkit.usecases import history as past

    with call.console() as console:
        found = past.flaky(call.settings, console)
    call.answer([shown.flaky_json(one) for one in found], lambda: shown.flaky_text(found))


@lab_task("verbose json")
def nights(call: Call) -> None:
    """List the nights, the newest first.

    Example: ./lab nights
    """
    from labkit.reports import as_history as shown
    from labkit.usecases import history as past

    with call.console() as console:
        found = past.nights(call.settings, console)
    call.answer([shown.night_json(*one) for one in found], lambda: shown.nights_text(found))


@lab_task("out verbose json")
def site(call: Call) -> None:
    """Write the history as pages for a browser: no server, no network.

    They link the runs' reports where those are: publish the reports directory as a whole, with `site` in it.

    Examples:
        ./lab site
        ./lab site --out /srv/www/lab
    """
    from labkit.usecases import history as past

    with call.console() as console:
        page = past.site(call.settings, console, Path(call.words["out"]) if call.words["out"] else None)
    call.answer({"page": str(page)}, str(page))


@lab_task("out key product minimum own_policy verbose json", rest="claimed")
def claim(call: Call) -> None:
    """Make a claim of runs: a signed folder that a stranger can check.

    Runs of one runtime, whole ones, judged under labkit's policy; others are refused, with the reason. There is no
    programme that certifies runtimes: a claim says what was measured, `verify` whether that is so.

    Examples:
        ./lab claim latest --out claim
        ./lab claim ID-OF-SPEC ID-OF-VALIDATION --out claim --key ~/.ssh/id_ed25519 --product PRODUCT.yaml
    """
    from labkit.reports.as_claim import wording
    from labkit.usecases.claim import claim as make

    if not call.words["out"]:
        raise UsageError("--out is missing", hint="./lab claim latest --out DIR, a new directory")
    with call.console():
        done = make(
            call.settings,
            call.words["claimed"],
            Path(call.words["out"]),
            key=Path(call.words["key"]) if call.words["key"] else None,
            product=Path(call.words["product"]) if call.words["product"] else None,
            minimum=call.words["minimum"] or "MUST",
            own_policy=bool(call.words["own_policy"]),
        )
    told = f"{done.claim.outcome}: {wording(done.claim)}"
    lines = [str(done.directory), done.claim.title, told, f"signed by {done.key.fingerprint}: {done.key.line}"]
    lines += [f"a key was made for it: {done.made_key}; its public part is beside it, .pub"] if done.made_key else []
    if done.lacking:
        lines.append(f"PRODUCT.yaml lacks {', '.join(done.lacking)}: --product FILE gives them")
    lines += [f"for its programme: {done.directory / done.form}"] if done.form else []
    lines += [f"reviewers of its programme would not take it: {why}" for why in done.misses]
    value = {
        "directory": str(done.directory),
        "title": done.claim.title,
        "outcome": done.claim.outcome.value,
        "told": told,
        "runs": list(done.claim.names),
        "key": done.key.fingerprint,
        "lacking": list(done.lacking),
        "form": done.form or None,
        "misses": list(done.misses),
    }
    call.answer(value, lambda: "\n".join(map(printable, lines)))


@lab_task("key allowed_signers verbose json", words="claim_dir")
def verify(call: Call) -> None:
    """Check a claim: its signature, every file, and its verdicts.

    The raw output in it is judged again, and compared. Exit status: 0 it holds and is of who you name, 1 something
    differs, or nobody is named, 2 wrong usage or no claim.

    Examples:
        ./lab verify claim --key alice.pub
        ./lab verify claim --allowed-signers signers --json
    """
    from labkit.usecases.verify import verify as check_claim

    call.refuse_beside("key", ["allowed_signers"])
    with call.console():
        done = check_claim(
            Path(call.words["claim_dir"]),
            key=Path(call.words["key"]) if call.words["key"] else None,
            allowed=Path(call.words["allowed_signers"]) if call.words["allowed_signers"] else None,
        )
    call.answer(done.to_json(), done.text)
    sys.exit(done.exit_status)


@lab_task("rootfs out args env mount hostname terminal rootless network spec_version config json")
def bundle(call: Call) -> None:
    """Make an OCI bundle of a root file system, of any container.

    What `docker export` writes, any other archive or a directory becomes DIR/rootfs; DIR/config.json is labkit's own,
    or with --config one that is there. Nothing outside of DIR is written, whatever the archive says.

    Examples:
        docker export web | ./lab bundle --rootfs - --out web
        ./lab bundle --rootfs rootfs.tar.gz --out b --args 'sh -c "ls /data"' --mount ./data:/data:ro
        ./lab bundle --rootfs rootfs.tar --out b --rootless --network host --terminal
        ./lab bundle --rootfs rootfs.tar --out b --config config.json
    """
    from labkit.usecases.bundle import Asked
    from labkit.usecases.bundle import bundle as make

    words = call.words
    for needed in ("rootfs", "out"):
        if not words[needed]:
            raise UsageError(f"--{needed} is missing", hint="./lab bundle --rootfs x.tar --out DIR, a new directory")
    call.refuse_beside(
        "config", ["args", "env", "mount", "hostname", "terminal", "rootless", "network", "spec_version"]
    )
    with call.console():
        done = make(
            words["rootfs"],
            Path(words["out"]),
            Asked(
                words["args"],
                tuple(words["env"]),
                tuple(words["mount"]),
                words["hostname"],
                bool(words["terminal"]),
                bool(words["rootless"]),
                words["network"],
                words["spec_version"],
                Path(words["config"]) if words["config"] else None,
            ),
        )
    value = {
        "directory": str(done.directory),
        "files": done.filled.files,
        "bytes": done.filled.size,
        "notes": list(done.told),
    }
    lines = [f"{done.directory}: {count(done.filled.files, 'file')}, {amount(done.filled.size)}", *done.told]
    lines.append(f"run it: runc run --bundle {shlex.quote(str(done.directory))} NAME")
    call.answer(value, lambda: "\n".join(map(printable, lines)))


@lab_task("platform release timer ci out")
def render(call: Call) -> None:
    """Write out the scripts that make a machine a lab, or what starts `nightly` every night.

    Examples:
        ./lab render --platform fedora --out /tmp/fedora
        ./lab render --timer --out /tmp/units
        ./lab render --ci github --out .
    """
    from labkit.usecases import export

    call.refuse_beside("timer", ["ci", "platform", "release"])
    call.refuse_beside("ci", ["platform", "release"])
    out = Path(call.words["out"] or "rendered")
    with call.console() as console:
        if call.words["timer"]:
            paths = export.timer(call.settings, console, out)
        elif call.words["ci"]:
            paths = export.ci(call.words["ci"], out)
        else:
            paths = export.render(call.settings, console, out)
    for path in paths:
        print(path)


@lab_task("platform release out verbose yes")
def package(call: Call) -> None:
    """Make a Vagrant box for libvirt of the platform, with the bootstrap done.

    Example: ./lab package --platform debian --out /tmp/debian
    """
    from labkit.usecases import export

    with call.console() as console:
        box = export.package(call.settings, console, Path(call.words["out"] or "rendered"))
    print(box)


@lab_task(f"{_MACHINE} yes json")
def doctor(call: Call) -> None:
    """Say what this host lacks; as root or with --yes get it.

    Exit status: 0 if machines can be made here, else 3.

    Examples:
        ./lab doctor
        ./lab doctor --yes
    """
    from labkit.usecases.doctor import doctor as run_doctor

    with call.console(verbose=True) as console:
        checks, error = run_doctor(call.settings, console)
    rows = [(check.state.value, check.name, check.found, check.needed_for) for check in checks]
    text = table([("STATE", "WHAT", "FOUND", "NEEDED FOR"), *rows])
    call.answer([check.to_json() for check in checks], text)
    if error:
        raise error


@lab_task("json")
def platforms(call: Call) -> None:
    """List platforms and their releases, the default first.

    Example: ./lab platforms --json
    """
    from labkit.core import platforms

    directories = platforms.directories(call.settings.platforms)
    found = [platforms.load(name, directories) for name in platforms.names(directories)]
    rows = [(p.name, r.name, r.codename or "", ", ".join(r.images)) for p in found for r in p.by_default()]
    call.answer(
        [p.model_dump(exclude_none=True) for p in found], table([("PLATFORM", "RELEASE", "NAME", "FROM"), *rows])
    )


@lab_task("platform release verbose json")
def runtimes(call: Call) -> None:
    """List the runtimes known by name, and what a platform has of them.

    Any other is named by its path. The versions of a platform's packages are asked for where --platform or --release is
    given.

    Examples:
        ./lab runtimes
        ./lab runtimes --platform debian
    """
    from labkit.usecases.runtimes import listing

    ask = bool(call.words["platform"] or call.words["release"])
    with call.console() as console:
        found = listing(call.settings, console, ask=ask)
    rows = [
        (each.runtime.name, each.package or "-", ", ".join(each.about.releases) or "-", ", ".join(each.ways) or "-")
        for each in found.runtimes
    ]
    notes = [f"{each.runtime.name}: {note}" for each in found.runtimes for note in each.notes]
    if not ask:
        notes.insert(0, "--platform NAME asks its mirror for the versions of its packages")
    if found.unasked:
        notes.insert(0, f"packages of {found.distro.title} are not known: {found.unasked}")
    shown = table([("RUNTIME", "PACKAGE", "RELEASES", "FROM"), *rows])
    call.answer([each.to_json() for each in found.runtimes], "\n".join([shown, "", *notes]))


@lab_task("json")
def engines(call: Call) -> None:
    """List the engines that can be put over a runtime, and what else converts images.

    Example: ./lab engines --json
    """
    from labkit.subjects import engines

    found = [engines.find(name) for name in engines.names()]
    rows = [(one.name, one.title, ", ".join(one.suites), ", ".join(one.steps)) for one in found if not one.none]
    notes = [f"{one.name}: {one.none}" for one in found if one.none]
    shown = table([("ENGINE", "TITLE", "SUITES", "STEPS"), *rows])
    call.answer([one.to_json() for one in found], "\n".join([shown, *[""] * bool(notes), *notes]))


@lab_task("export json")
def suites(call: Call) -> None:
    """List the suites, or export one that runs alone.

    Examples:
        ./lab suites
        ./lab suites --export /tmp
    """
    from labkit.suites import registry

    if call.words["export"] is not None:
        path = registry.export(Path(call.words["export"]))
        call.answer({"path": str(path)}, str(path))
    else:
        names = registry.names()
        call.answer(names, "\n".join(names))


@lab_task("fast long faults slow yes verbose")
def check(call: Call) -> None:
    """Run labkit's own checks; needs a checkout.

    As root, or with --yes, it installs what the tests need of this host; else it says what was left out.

    Examples:
        ./lab check --fast
        ./lab check
        ./lab check --long
        ./lab check --faults
        ./lab check --slow
    """
    from labkit.cli.selfcheck import Extent, run

    asked = [word for word in ("fast", "long", "faults", "slow") if call.words[word]]
    if len(asked) > 1:
        both = f"--{asked[0]} and --{asked[1]} exclude each other"
        raise UsageError(both, hint="./lab check without any of these is between --fast and --long")
    extent = Extent[asked[0].upper()] if asked else Extent.NORMAL
    with call.console() as console:
        status = run(Path(__file__).parent, call.settings, console, extent)
    sys.exit(status)


def _machines(machines: list[MachineInfo]) -> str:
    rows = [
        (
            info.name,
            info.state,
            _address(info),
            info.accelerator or "",
            f"{info.seconds:.1f} s" if info.seconds is not None else "",
        )
        for info in machines
    ]
    return "\n".join([table([("MACHINE", "STATE", "ADDRESS", "ACCELERATOR", "TOOK"), *rows]), *_notes(machines)])


def _notes(machines: list[MachineInfo]) -> list[str]:
    """What is to be known of some of them: that one's kernel is another one, and what is wrong with one."""
    notes = [
        (info.name, f"its kernel is {info.kernel_origin}, not the platform's")
        for info in machines
        if info.kernel_origin
    ]
    notes += [(info.name, info.problem) for info in machines if info.problem]
    return [printable(f"{name}: {note}") for name, note in notes]


def _beside(call: Call, sides: SideBySide) -> str:
    from labkit.reports import as_table

    if call.words.get("markdown"):
        return as_table.as_markdown(sides).rstrip("\n")
    width = shutil.get_terminal_size().columns
    return as_table.text(sides, width=width, terminal=sys.stdout.isatty()).rstrip("\n")


def _planned(call: Call, outlook: Outlook) -> None:
    def text() -> str:
        cells = [
            (
                one.key,
                f"{one.seconds:.0f} s" if one.seconds is not None else "",
                f"{one.limit:.0f} s",
                f"cannot exist: {one.problem}" if one.problem else "",
            )
            for one in outlook.plan.cells
        ]
        end = "how long it will take is not known: some cells have not run yet"
        if outlook.seconds is not None:
            at = datetime.now() + timedelta(seconds=outlook.seconds)
            end = f"expected to take {outlook.seconds / 60:.0f} min, until {at:%H:%M}"
        told = f"{len(cells)} cell{'s' * (len(cells) != 1)}, {outlook.at_once} at a time; {end}"
        return "\n".join([table([("CELL", "LAST TIME", "LIMIT", ""), *cells]), *outlook.plan.notes, told])

    call.answer(outlook.to_json(), text)


def _address(info: MachineInfo) -> str:
    return f"{info.user}@{info.address}:{info.port}" if info.port else ""


def _side_by_side(outcomes: Sequence[Outcome]) -> SideBySide | None:
    """Runs of several runtimes, compared, and the page of that written beside the reports of the last one."""
    if len(outcomes) < 2:
        return None
    from labkit.usecases.compare import beside

    return beside(outcomes)


def _shown(call: Call, outcomes: Sequence[Outcome]) -> None:
    """Print what runs came to."""
    from labkit.reports.terminal import summary

    width, terminal = shutil.get_terminal_size().columns, sys.stdout.isatty()
    parts = [summary(one.run, width=width, terminal=terminal, directory=one.directory) for one in outcomes]
    if sides := _side_by_side(outcomes):
        parts.append(_beside(call, sides))
    print("\n".join(parts).rstrip("\n"), flush=True)


def _told(call: Call, outcomes: Sequence[Outcome], sides: SideBySide | None = None) -> None:
    for warning in dict.fromkeys(warning for outcome in outcomes for warning in outcome.warnings):
        print(f"labkit: warning: {printable(warning)}", file=sys.stderr)
    from labkit.results.causes import causes

    values = [
        {
            "folder": str(one.directory),
            "exit_status": one.exit_status,
            **one.run.summary(),
            **({"causes": [cause.to_json() for cause in found]} if (found := causes(one.run.unexpected)) else {}),
        }
        for one in outcomes
    ]
    status = max(one.exit_status for one in outcomes)

    def text() -> str:
        if call.words.get("markdown"):
            from labkit.reports.as_markdown import render

            return "\n".join(render(one.run) for one in outcomes).rstrip("\n")
        from labkit.reports.terminal import summary
        from labkit.usecases.compare import PAGE

        width = shutil.get_terminal_size().columns
        parts = [
            summary(one.run, width=width, terminal=sys.stdout.isatty(), directory=one.directory) for one in outcomes
        ]
        if sides:
            parts.append(_beside(call, sides))
            parts.append(f"side by side: {outcomes[-1].directory / PAGE}")
        return "\n".join(parts).rstrip("\n")

    several = {"runs": values, "exit_status": status, **({"side_by_side": sides.to_json()} if sides else {})}
    call.answer(values[0] if len(values) == 1 else several, text)
    if call.workflow:
        from labkit.reports import as_github, as_markdown

        for one in outcomes:
            call.workflow.summarize(functools.partial(as_markdown.render, one.run))
        if sides:
            from labkit.reports import as_table

            call.workflow.summarize(functools.partial(as_table.as_markdown, sides))
        call.workflow.annotate(as_github.of_runs([one.run for one in outcomes]))
    sys.exit(status)
