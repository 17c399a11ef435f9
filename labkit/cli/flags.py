"""Between Invoke and the use cases: flags with one meaning everywhere, and the words of a call as settings.

Imported by every command, `--list` included, which must answer at once: whatever is heavy is imported on use.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.tasks import task

from labkit.cli.console import Console, guard
from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean

if TYPE_CHECKING:
    from labkit.core.cell import Selection
    from labkit.core.config import Settings

_SETTINGS = (
    "platform",
    "release",
    "provider",
    "machine",
    "runtime",
    "suite",
    "jobs",
    "yes",
    "host",
)  # flags that config knows
_FLAGS: dict[str, tuple[object, str]] = {  # name: default, help
    "platform": (None, "a distribution, see `platforms`; debian if nothing else is said"),
    "release": (None, "a release of it; else the platform's default"),
    "provider": (None, "what makes the machine: auto, qemu, vagrant or ssh"),
    "host": (None, "an existing host for the ssh provider: USER@HOST or USER@HOST:PORT"),
    "machine": (None, "the machine's name; else PLATFORM-RELEASE"),
    "runtime": (None, "a name from `runtimes`, or the absolute path of a program in the machine; else runc"),
    "suite": (None, "what to run, see `suites`; else spec"),
    "only": ([], "run only this check or program: ID or ID,ID; may be repeated"),
    "jobs": (None, "how many checks at a time; else what the machine can do"),
    "run": (None, "the id of a run in the reports directory; else the latest"),
    "failed": (False, "run only what failed in the newest run of this suite and runtime"),
    "repeat": (None, "how often each program runs; tells which are flaky"),
    "limit": (None, "seconds that each program may take"),
    "no_policy": (False, "the bare truth: mark nothing as expected"),
    "runtime_version": (None, "the runtime's version, where the directory does not say"),
    "cgroup": (None, "v1 or v2, where the directory does not say"),
    "ref": (None, "the ref of the suite's tree, where the directory does not say"),
    "html": (None, "write a report of it to this file as well"),
    "dir": (None, "a run's directory or id, its raw/, or a directory of NAME.tap, NAME.err and summary.tsv"),
    "run_a": (None, "the earlier run: a directory or id, as `judge` takes it"),
    "run_b": (None, "the later run"),
    "out": ("rendered", "the directory to write to"),
    "export": (None, "write the suite as DIR/labkit-spec.pyz, which runs without labkit"),
    "all": (False, "every machine of this lab"),
    "fast": (False, "only what starts neither containers nor machines: under a minute"),
    "long": (False, "also Vagrant, every image, and whole suites on several runtimes: under an hour"),
    "json": (False, "print JSON for scripts"),
    "verbose": (False, "show which tools run, what they print, and the checks that pass"),
    "yes": (False, "install what this host lacks without asking (with sudo, unless root)"),
}


class Call:
    """One task as it was typed. words is flag to value, all flags of the task present."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        self.words = words

    @functools.cached_property
    def settings(self) -> Settings:
        from labkit.core import config

        return config.load({flag: self.words[flag] for flag in _SETTINGS if flag in self.words})

    def selection(self) -> Selection:
        """What to run of a suite."""
        from labkit.core.cell import Selection

        only = [word for words in self.words["only"] for word in words.split(",") if word]
        repeat, limit = self.number("repeat", 1000), self.number("limit", 86400)
        return Selection(tuple(only), self.settings.jobs, repeat, limit)

    def number(self, flag: str, most: int) -> int | None:
        """The value of a flag that takes a number, None where it was not given; else UsageError."""
        word = self.words[flag]
        if word is not None and not (re.fullmatch("[1-9][0-9]{0,5}", word) and int(word) <= most):
            raise UsageError(f"--{flag} is {word!r}, must be a whole number from 1 to {most}")
        return None if word is None else int(word)

    def console(self, *, verbose: bool = False) -> Console:
        """Where the task tells how far it is; verbose: as if --verbose was given, but for the commands that it runs."""
        asked = bool(self.words.get("verbose"))
        return Console(verbose=verbose or asked, commands=asked)

    def answer(self, value: object, text: str | Callable[[], str]) -> None:
        """Print the outcome on stdout: the value as JSON if --json was given, else the text, or what it returns."""
        if self.words.get("json"):
            print(json.dumps(value, indent=2))
        else:
            print(text if isinstance(text, str) else text())


def lab_task(flags: str, *, words: str = "") -> Callable[[Callable[[Call], None]], Callable[..., Any]]:
    """Make an Invoke task of body(call), with these flags (separated by spaces); its docstring is the help.

    words are those that stand without a flag, in their order; all of them must be given.
    """
    positional = words.split()
    names = positional + flags.split()

    def decorate(body: Callable[[Call], None]) -> Callable[..., Any]:
        @functools.wraps(body)
        def run(_: Context, **words: Any) -> None:
            with guard():
                for name in positional:
                    if words[name].startswith("-"):  # Invoke takes whatever it does not know for one of these
                        near = did_you_mean(words[name], [f"--{flag.replace('_', '-')}" for flag in names])
                        hint = f"./lab --help {body.__name__} shows its flags"
                        raise UsageError(f"unknown flag {words[name]!r}{near}", hint=hint)
                body(Call(words))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind, default=_FLAGS[name][0]) for name in names]
        run.__signature__ = inspect.Signature([inspect.Parameter("c", kind), *parameters])  # type: ignore[attr-defined]
        # Short flags would be dealt out by Invoke in the order of the flags, other ones in every task.
        made: Callable[..., Any] = task(
            run,
            positional=positional,
            auto_shortflags=False,
            help={name: _FLAGS[name][1] for name in names},
            iterable=[name for name in names if isinstance(_FLAGS[name][0], list)],
        )
        return made

    return decorate


def after_dashes() -> list[str]:
    """Return the words after `--` as they were typed; Invoke would glue them together."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
