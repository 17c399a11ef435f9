"""Between Invoke and the use cases: flags with one meaning everywhere, and the words of a call as settings.

Imported by every command, `--list` included, which must answer at once: whatever is heavy is imported on use.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.tasks import Task

from labkit.cli import values
from labkit.cli.console import Console, guard
from labkit.cli.values import Given
from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean

if TYPE_CHECKING:
    from labkit.cli.github import Workflow
    from labkit.core.cell import Selection
    from labkit.core.config import Settings


@dataclass(frozen=True, slots=True)
class Flag:
    """A row of the table: all there is to say of a flag. Parsing, help, completion and the man page are made of it.

    metavar names the value in help, and is empty for a switch. values are those there are where that is a closed list,
    else what completion offers. is_setting: whether the configuration has a key for it.
    """

    default: object
    help: str
    metavar: str = ""
    values: tuple[str, ...] | Callable[[Given], Iterable[str]] = ()
    is_setting: bool = False
    short: str = ""
    optional_value: bool = False

    @property
    def repeats(self) -> bool:
        return isinstance(self.default, list)

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that there are; empty where they cannot be listed."""
        return self.values if isinstance(self.values, tuple) else ()

    @property
    def text(self) -> str:
        """The help, with what the row says besides."""
        more = f": {', '.join(self.choices)}" if self.choices else ""
        return self.help + more + (f"; else {self.default}" if isinstance(self.default, str) and self.default else "")


FLAGS: Mapping[str, Flag] = {
    "platform": Flag(
        None, "a distribution, see `platforms`; debian if nothing else is said", "PLATFORM", values.platforms, True
    ),
    "release": Flag(None, "a release of it; else the platform's default", "RELEASE", values.releases, True),
    "arch": Flag(
        None,
        "the machine's architecture; else this host's. Another one is emulated",
        "ARCH",
        ("auto", "amd64", "arm64"),
        True,
    ),
    "provider": Flag(None, "what makes the machine", "PROVIDER", ("auto", "qemu", "uml", "vagrant", "ssh"), True),
    "host": Flag(None, "an existing host for the ssh provider: USER@HOST or USER@HOST:PORT", "HOST", (), True),
    "machine": Flag(None, "the machine's name; else PLATFORM-RELEASE, or the host's", "NAME", values.machines, True),
    "machines": Flag(
        None, "how many machines share the suite: NAME, NAME-2 and so on, made alike, each with a part of it", "NUMBER"
    ),
    "runtime": Flag(
        [],
        "a name from `runtimes`, NAME@VERSION, NAME@REF, URL#REF; a file of this host (./runc, host:/x/runc, ./DIR/ "
        "with a `runtime` in it); or the absolute path of a program in the machine; else runc; may be repeated, for a "
        "run each",
        "RUNTIME",
        values.runtimes,
        True,
    ),
    "registry": Flag(
        [],
        "of `--suite distribution`: a name (docker-registry, distribution@VERSION), NAME@REF, URL#REF, a file of this "
        "host, or the address of one that runs: https://HOST, with OCI_USERNAME and OCI_PASSWORD, and SSL_CERT_FILE "
        "for a private CA, from the environment; else docker-registry; may be repeated",
        "REGISTRY",
        values.registries,
        True,
    ),
    "runtime_arg": Flag(
        [],
        "an argument for the runtime before each command: --runtime-arg=--systemd-cgroup; may be repeated",
        "ARG",
    ),
    "spec": Flag(None, "hold the runtime to this runtime-spec rather than to the one that it claims", "VERSION"),
    "user": Flag(
        None,
        "who runs suite and runtime in the machine, instead of root, of the spec and bats suites; a user that is not "
        "there is made, but not on a host of somebody's own",
        "NAME",
    ),
    "no_confirm": Flag(False, "do not run a check that is bad again to see whether that repeats"),
    "untrusted": Flag(
        False,
        "the runtime may be hostile: run it in no machine of User-Mode Linux, which is no wall",
        is_setting=True,
    ),
    "suite": Flag(None, "what to run, see `suites`; else spec", "SUITE", values.suites, True),
    "engine": Flag(
        None,
        "what uses the runtime, or converts images: of `--suite engine` and `image`",
        "ENGINE",
        values.engines,
        True,
    ),
    "only": Flag(
        [],
        "only this check or program: ID or ID,ID, or a pattern with * and ?, or a program's path; may be repeated; "
        "of `nightly`, only the cells of this name: '*/crun/*'; of `bisect`, also ID:FINDING, for that finding alone",
        "ID",
        values.checks,
    ),
    "skip": Flag(
        None, "leave out what this file names: one name or pattern a line, # begins a comment", "FILE", values.files
    ),
    "checks": Flag([], "in each cell, run only this check or program: ID or ID,ID", "ID", values.checks_of_cells),
    "matrix": Flag(None, "a TOML file with a table [matrix]; else that of labkit.toml", "FILE", values.files, True),
    "on": Flag(
        None, "run the cells on these hosts, over SSH: HOST,HOST; labkit[cluster] is installed there", "HOSTS", (), True
    ),
    "scheduler": Flag(
        None, "run the cells on the Dask cluster of this scheduler: tls://HOST:PORT", "ADDRESS", (), True
    ),
    "plan": Flag(False, "only show the cells, how long each took last time, and the expected end"),
    "resume": Flag(False, "go on with the last night, or bisection, which did not finish"),
    "good": Flag(None, "a commit, branch or tag that does not show the failure: v1.2.0, HEAD~20", "REF"),
    "bad": Flag(None, "a later one that shows it", "REF"),
    "jobs": Flag(None, "how many checks at a time; else what the machine can do", "NUMBER", (), True),
    "reference": Flag(
        None,
        "the runtime that what is bad and not expected is run over, too, to see whose failure it is: as --runtime has "
        "it, or none; else the platform's runc",
        "RUNTIME",
        values.references,
    ),
    "watch": Flag(False, "run again whenever the file of --runtime changes, until Ctrl-C"),
    "run": Flag(
        None, "the id of a run in the reports directory, or its beginning; else the latest", "RUN", values.runs
    ),
    "failed": Flag(False, "run only what failed in the newest run of this suite and runtime"),
    "repeat": Flag(None, "how often each check or program runs; tells which are flaky", "NUMBER"),
    "limit": Flag(None, "seconds that each check or program may take", "SECONDS"),
    "no_policy": Flag(False, "without the policy: mark nothing as expected"),
    "runtime_name": Flag(
        None, "what to call the runtime; else it is what its --version says, or the last part of its path", "NAME"
    ),
    "runtime_version": Flag(None, "the runtime's version, in place of what the output says", "VERSION"),
    "cgroup": Flag(None, "the cgroup version, in place of what the output says", "VERSION", ("v1", "v2", "hybrid")),
    "ref": Flag(None, "the ref of runtime-tools, in place of what the output says", "REF"),
    "profile": Flag(
        None,
        "what engines are held to: the document as it stands, or (default) what all callers and runtimes practise",
        "PROFILE",
        ("practice", "document"),
    ),
    "programs": Flag(
        None, "a file with the names of all programs, one a line, of a fork of runtime-tools", "FILE", values.files
    ),
    "html": Flag(None, "write a report of it to this file as well", "FILE", values.files),
    "dir": Flag(
        None,
        "a run's directory, its id or the beginning of that; or a directory of NAME.tap, NAME.err and summary.tsv, an "
        "archive of one, or a single .tap file",
        "DIR",
        values.runs_and_directories,
    ),
    "of_run": Flag(
        None, "a run: its id or the beginning of that, its directory, or latest", "RUN", values.runs_and_directories
    ),
    "check_id": Flag(None, "a check by its id, or a program by its name", "ID", values.checks_of_run),
    "reproduce": Flag(
        None,
        "do it again: a shell in the run's machine, beside a script that does; with DIR, write script and files there",
        "DIR",
        values.directories,
        optional_value=True,
    ),
    "full": Flag(False, "all that is known, whole files and outputs, not only what matters"),
    "run_a": Flag(
        None, "the earlier run: a directory or id, as `judge` takes it", "RUN-A", values.runs_and_directories
    ),
    "run_b": Flag(None, "the later run", "RUN-B", values.runs_and_directories),
    "run_c": Flag(
        [], "more runs, each compared with the first: a table, side by side", "RUN-C", values.runs_and_directories
    ),
    "action": Flag(None, "what to do with the policy", "ACTION", ("add", "check", "import")),
    "word": Flag(
        [],
        "of `add` a run and what it showed: ids of checks, programs, results; of `check` runs, else the last 20; of "
        "`import` a file",
        "WORD",
        values.policy_words,
    ),
    "reason": Flag(None, "with `add`: why that is expected, in a sentence", "TEXT"),
    "link": Flag(None, "with `add`: where that is discussed, an https address", "URL"),
    "expires": Flag(None, "with `add`: the last day on which that is expected, such as 2027-06-30", "DATE"),
    "wide": Flag(
        [],
        "with `add`: do not narrow the entry to the run's runtime, version, cgroup or platform: KEY or KEY,KEY; "
        "may be repeated",
        "KEY",
        values.policy_conditions,
    ),
    "file": Flag(
        None, "with `add` and `import`: the policy file to write to; else that of labkit.toml", "FILE", values.files
    ),
    "syntax": Flag(
        None,
        "with `import`: what the file is, where its content does not tell",
        "SYNTAX",
        ("crun", "youki", "bats", "bats-names", "array", "list"),
    ),
    "shipped": Flag(False, "with `check`: labkit's own entries, too"),
    "out": Flag(
        None,
        "the directory to write to, of `claim` and `bundle` a new one; else `rendered`, of the history `site` in the "
        "reports directory",
        "DIR",
        values.directories,
    ),
    "what": Flag(
        None,
        "a check's id or a program's name; or a cell such as debian-13/uml/runc/spec, or a pattern: '*/runc/*'",
        "ID|CELL",
        values.cells_and_checks,
    ),
    "claimed": Flag(
        [],
        "a run of the claim: its id or the beginning of that, its directory, or latest",
        "RUN",
        values.runs_and_directories,
    ),
    "key": Flag(
        None,
        "of `claim` the private key to sign with, Ed25519; else the lab's own, keys/claim; of `verify` the public key "
        "of whoever made the claim",
        "FILE",
        values.files,
    ),
    "allowed_signers": Flag(
        None, "who may have made the claim: a list of keys and names as ssh-keygen(1) has it", "FILE", values.files
    ),
    "product": Flag(
        None, "what the runtime is, as PRODUCT.yaml of opencontainers/oci-conformance has it", "FILE", values.files
    ),
    "minimum": Flag(None, "the level below which a failure is a warning; else MUST", "LEVEL", ("MUST", "SHOULD")),
    "own_policy": Flag(False, "claim runs that were judged with a policy of your own; the claim names it, and has it"),
    "rootfs": Flag(
        None,
        "a root file system: a tar archive (plain, gzip, xz, bzip2, zstd with Python 3.14), a directory, or - for an "
        "archive on stdin",
        "FILE",
        values.files,
    ),
    "args": Flag(None, "what the container runs, with its arguments, quoted as for a shell; else sh", "COMMAND"),
    "env": Flag([], "an environment variable of the container's process; may be repeated", "NAME=VALUE"),
    "mount": Flag(
        [],
        "a file or directory of this host for the container: SRC:DST, or SRC:DST:ro, read-only but for what is "
        "mounted below SRC; may be repeated",
        "SRC:DST",
        values.files,
    ),
    "hostname": Flag(None, "the container's host name; else labkit", "NAME"),
    "terminal": Flag(False, "the container's process has a terminal"),
    "rootless": Flag(False, "for this user, who is root in it, with a user namespace and without resources"),
    "network": Flag(
        None,
        "the container's network: none (default), a namespace of its own; host; or the path of a namespace, such as "
        "/run/netns/NAME",
        "NETWORK",
    ),
    "spec_version": Flag(None, "the runtime-spec that config.json names as its ociVersion; else 1.0.2", "VERSION"),
    "config": Flag(
        None,
        "a config.json to take in place of labkit's own, of oci-runtime-tool or runc spec, say; its root.path becomes "
        "rootfs",
        "FILE",
        values.files,
    ),
    "claim_dir": Flag(None, "the directory of a claim", "DIR", values.directories),
    "export": Flag(
        None, "write the suite as DIR/labkit-spec.pyz, which runs without labkit", "DIR", values.directories
    ),
    "discard_state": Flag(
        False, "give up the memory of a halted machine, or of one that cannot be reached, and boot its disk"
    ),
    "all": Flag(False, "every machine of this lab"),
    "dry_run": Flag(False, "only show what would go"),
    "keep": Flag(None, "keep what was of use in so many days, though nothing needs it", "DAYS"),
    "fast": Flag(False, "only what starts neither containers nor machines: about a minute"),
    "long": Flag(False, "also Vagrant, every image, and whole suites on several runtimes: an hour or more"),
    "faults": Flag(False, "only the table of faults, all of it, on simulated machines and on a real one"),
    "slow": Flag(False, "only what --long leaves out: all broken runtimes, a machine of another architecture"),
    "format": Flag(
        None,
        "how the outcome is printed; github: also as annotations and in the summary of a job of GitHub Actions",
        "FORMAT",
        ("text", "github"),
    ),
    "markdown": Flag(False, "print it as Markdown"),
    "timer": Flag(False, "a service and a timer of systemd, and a line for cron, that run `nightly` here every night"),
    "ci": Flag(None, "a job that runs `nightly` in that CI system", "SYSTEM", ("github", "gitlab")),
    "json": Flag(False, "print JSON for scripts"),
    "verbose": Flag(False, "show which tools run, what they print, and the checks that pass"),
    "yes": Flag(
        False,
        "install what this host lacks without asking (with sudo, unless root); agree to `up` of a host of your own",
        is_setting=True,
    ),
}
CORE_FLAGS: Mapping[str, Flag] = {  # those of labkit itself, which go before the task or stand alone
    "help": Flag(None, "explain labkit or a task, and exit", "TASK", short="h", optional_value=True),
    "list": Flag(False, "list the tasks, and exit", short="l"),
    "version": Flag(False, "print labkit's version, and exit", short="V"),
    "print_completion_script": Flag(
        None, "print what makes a shell complete labkit's words, and exit", "SHELL", ("bash", "zsh", "fish")
    ),
    "print_man_page": Flag(False, "print the man page, and exit"),
}


def either(words: Sequence[str]) -> str:
    """The words as alternatives in a sentence: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def flag_spec(name: str, row: Flag) -> str:
    """How help shows a flag: `-h, --help [TASK]`."""
    value = f"[{row.metavar}]" if row.optional_value else row.metavar
    return f"{f'-{row.short}, ' if row.short else ''}{spelt(name)}{f' {value}' if value else ''}"


@dataclass(frozen=True, slots=True)
class Command:
    """A task as the command line knows it: the names of its words and flags in the table, and its help.

    after_dashes names what it takes after `--`, empty where it takes nothing; rest the row for the words that may
    follow its own, any number of them.
    """

    name: str
    doc: str
    words: tuple[str, ...]
    flags: tuple[str, ...]
    after_dashes: str
    rest: str = ""

    @property
    def summary(self) -> str:
        return self.doc.partition("\n")[0]

    @property
    def usage(self) -> str:
        words = [FLAGS[word].metavar for word in self.words] + ["[FLAGS]"] * bool(self.flags)
        words[len(self.words) : len(self.words)] = [f"[{FLAGS[self.rest].metavar}...]"] if self.rest else []
        return " ".join(["./lab", self.name, *words, *([f"[-- {self.after_dashes}]"] if self.after_dashes else [])])


def with_flags(words: Sequence[str], commands: Mapping[str, Command]) -> list[str]:
    """The words of a command line with those that may follow a task's own as flags, which alone Invoke can repeat:
    `policy add RUN ID` as `policy add --word=RUN --word=ID`.

    UsageError where a flag lacks its value: at the end Invoke takes one that may be repeated for not given, and before
    another flag it takes that for the value.
    """
    made: list[str] = []
    command: Command | None = None
    own, waiting = 0, ""
    end = words.index("--") if "--" in words else len(words)
    for word in words[:end]:
        name, equals, _ = word.partition("=")
        own_flags = (*command.flags, command.rest) if command else ()
        row = next((FLAGS[flag] for flag in own_flags if flag and spelt(flag) == name), None)
        if waiting and row:
            raise UsageError(
                f"{waiting} needs a value, and {name} is a flag", hint=f"a value like that: {waiting}={word}"
            )
        if waiting:
            waiting = ""
        elif word.startswith("-") and len(word) > 1:
            waiting = name if row and row.metavar and not row.optional_value and not equals else ""
        elif command is None:
            command, own = commands.get(word), 0
        elif own < len(command.words):
            own += 1
        elif command.rest:
            made.append(f"{spelt(command.rest)}={word}")
            continue
        made.append(word)
    if command and waiting:
        raise UsageError(f"{waiting} needs a value", hint=f"./lab {command.name} --help shows its flags")
    return [*made, *words[end:]]


class LabTask(Task[Any]):
    """An Invoke task that knows its row of the table of tasks."""

    command: Command


def spelt(flag: str) -> str:
    """The flag as it is typed."""
    return f"--{flag.replace('_', '-')}"


class Call:
    """One task as it was typed. words is flag to value, all flags of the task present."""

    def __init__(self, words: Mapping[str, Any], workflow: Workflow | None = None) -> None:
        self.words = words
        self.workflow = workflow  # of GitHub, where the task is a step of one

    @functools.cached_property
    def settings(self) -> Settings:
        from labkit.core import config

        given = {flag: value for flag, value in self.words.items() if FLAGS[flag].is_setting}
        given = {flag: next(iter(value), None) if isinstance(value, list) else value for flag, value in given.items()}
        return config.load(given)

    def runtimes(self) -> list[str]:
        """The words of --runtime, which may be repeated."""
        from labkit.core import config

        return [config.host_file(word, Path.cwd()) for word in self.words["runtime"]]

    def subjects(self) -> list[str]:
        """The words of --runtime, or of --registry where the suite is about those; UsageError for the other one."""
        from labkit.core import config
        from labkit.suites import registry
        from labkit.suites.base import OfRegistries

        suite = self.settings.suite
        of_registries = isinstance(registry.find(suite), OfRegistries)
        meant, other = ("registry", "runtime") if of_registries else ("runtime", "registry")
        if self.words[other]:
            about = f"--{meant} names what is under test" if of_registries else "that takes --suite distribution"
            raise UsageError(f"the {suite} suite is not about --{other}", hint=about)
        return [config.host_file(word, Path.cwd()) for word in self.words[meant]]

    def listed(self, flag: str) -> list[str]:
        """The words of a flag that may be repeated, and takes several separated by commas."""
        return [word.strip() for words in self.words[flag] for word in words.split(",") if word.strip()]

    def selection(self) -> Selection:
        """What to run of a suite."""
        from labkit.core.cell import Selection

        only, skip = self.meant()
        repeat, limit = self.number("repeat", 1000), self.number("limit", 86400)
        return Selection(
            only,
            self.settings.jobs,
            repeat,
            limit,
            tuple(self.words["runtime_arg"]),
            self.words["spec"] or "",
            not self.words["no_confirm"],
            skip,
            user=self.words["user"] or "",
        )

    def meant(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The words of --only, and those in the file of --skip."""
        from labkit.guest.common.names import words_of
        from labkit.suites.subset import read_list

        file = self.words["skip"]
        return tuple(words_of(self.words["only"])), read_list(Path(file)) if file is not None else ()

    def number(self, flag: str, most: int) -> int | None:
        """The value of a flag that takes a number, None where it was not given; else UsageError."""
        word = self.words[flag]
        if word is not None and not (re.fullmatch("[1-9][0-9]{0,5}", word) and int(word) <= most):
            raise UsageError(f"--{flag} is {word!r}, must be a whole number from 1 to {most}")
        return None if word is None else int(word)

    def console(self, *, verbose: bool = False) -> Console:
        """Where the task tells how far it is; verbose: as if --verbose was given, but for the commands that it runs."""
        asked = bool(self.words.get("verbose"))
        console = Console(verbose=verbose or asked, commands=asked)
        if asked:
            console.detail(f"configuration: {self.settings.file or 'no labkit.toml'}")
        return console

    def refuse_beside(self, flag: str, others: Sequence[str]) -> None:
        """UsageError where the flag is given together with one of the others, which would have no effect."""
        for other in others:
            if self.words.get(flag) and self.words.get(other):
                raise UsageError(f"{spelt(flag)} takes no {spelt(other)}", hint=f"{spelt(flag)}: {FLAGS[flag].help}")

    def answer(self, value: object, text: str | Callable[[], str]) -> None:
        """Print the outcome on stdout: the value as JSON if --json was given, else the text, or what it returns."""
        if self.words.get("json"):
            print(json.dumps(value, indent=2))
        else:
            print(text if isinstance(text, str) else text())


def lab_task(
    flags: str, *, words: str = "", rest: str = "", after_dashes: str = ""
) -> Callable[[Callable[[Call], None]], LabTask]:
    """Make an Invoke task of body(call), with these flags (separated by spaces); its docstring is the help.

    words are those that stand without a flag, in their order; all of them must be given. rest is the row for any number
    more of them. after_dashes names what the task takes after `--`.
    """

    def decorate(body: Callable[[Call], None]) -> LabTask:
        doc = inspect.cleandoc(body.__doc__ or "")
        command = Command(body.__name__, doc, tuple(words.split()), tuple(flags.split()), after_dashes, rest)
        names = (*command.words, *([rest] if rest else []), *command.flags)

        @functools.wraps(body)
        def run(_: Context, **given: Any) -> None:
            with guard():
                _check(command, given)
                Call(given).refuse_beside("format", ["json"])
                if given.get("format") == "github":
                    from labkit.cli.github import Workflow

                    with Workflow() as workflow:
                        body(Call(given, workflow))
                else:
                    body(Call(given))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind, default=FLAGS[name].default) for name in names]
        run.__signature__ = inspect.Signature([inspect.Parameter("c", kind), *parameters])  # type: ignore[attr-defined]
        # Short flags would be dealt out by Invoke in the order of the flags, other ones in every task.
        made = LabTask(
            run,
            positional=command.words,
            auto_shortflags=False,
            help={name: FLAGS[name].text for name in names},
            iterable=[name for name in names if FLAGS[name].repeats],
            optional=[name for name in names if FLAGS[name].optional_value],
        )
        made.command = command
        return made

    return decorate


def words_after_dashes() -> list[str]:
    """Return the words after `--` as they were typed; Invoke would glue them together."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []


def _check(command: Command, given: Mapping[str, Any]) -> None:
    """UsageError where the words are not what the task takes, as far as the table tells."""
    names = (*command.words, *([command.rest] if command.rest else []), *command.flags)
    with_flags(sys.argv, {command.name: command})  # `invoke TASK` comes here without
    for name in command.words:
        if given[name].startswith("-"):  # Invoke takes whatever it does not know for one of these
            near = did_you_mean(given[name], map(spelt, names))
            raise UsageError(f"unknown flag {given[name]!r}{near}", hint=f"./lab --help {command.name} shows its flags")
    shown_as = {name: spelt(name) if name in command.flags else FLAGS[name].metavar for name in names}
    for name, shown in shown_as.items():
        refuse_empty(shown, given[name])
    if not command.after_dashes:
        _refuse_after_dashes(command.name)
    for name, shown in shown_as.items():
        choices = FLAGS[name].choices
        if choices and not FLAGS[name].is_setting and given[name] not in (None, *choices):
            raise UsageError(f"{shown} is {given[name]!r}, must be {either(choices)}")


def refuse_empty(name: str, value: object) -> None:
    """UsageError where an empty value was given, by a script's empty variable, say: it never means "not given"."""
    for word in value if isinstance(value, list) else [value]:
        if isinstance(word, str) and not word.strip(", "):
            hint = f"give {name} a value, or leave it out" if name.startswith("-") else "give it a value"
            raise UsageError(f"the value of {name} is empty: {word!r}", hint=hint)


def _refuse_after_dashes(task_name: str) -> None:
    if extra := words_after_dashes():
        hint = "only `./lab ssh` takes words after --: the command to run in the machine"
        if task_name == "test":
            hint = (
                "arguments for the runtime are given with --runtime-arg=ARG, each with its own, or in quotes: "
                "--runtime 'runc --debug'"
            )
        raise UsageError(f"{task_name} takes no words after --: {shlex.join(extra)}", hint=hint)
