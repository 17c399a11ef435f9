"""Between Invoke and the use cases: flags with one meaning everywhere, and the words of a call as settings.

Imported by every command, `--list` included, which must answer at once: whatever is heavy is imported on use.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from invoke.context import Context
from invoke.tasks import task

from labkit.console import Console, guard

if TYPE_CHECKING:
    from labkit.config import Settings

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
    "only": ([], "run only this check: ID or ID,ID; may be repeated"),
    "jobs": (None, "how many checks at a time; else what the machine can do"),
    "run": (None, "the id of a run in the reports folder; else the latest"),
    "out": ("rendered", "the folder to write to"),
    "export": (None, "write the suite as DIR/labkit-spec.pyz, which runs without labkit"),
    "all": (False, "every machine of this lab"),
    "fast": (False, "leave out the tests that run containers or machines"),
    "json": (False, "print JSON for scripts"),
    "verbose": (False, "show what tools print, and the checks that pass"),
    "yes": (False, "install what this host lacks without asking (with sudo, unless root)"),
}


class Call:
    """One task as it was typed. words is flag to value, all flags of the task present."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        self.words = words

    @functools.cached_property
    def settings(self) -> Settings:
        from labkit import config

        return config.load({flag: self.words[flag] for flag in _SETTINGS if flag in self.words})

    def console(self, *, verbose: bool = False) -> Console:
        return Console(verbose=verbose or self.words.get("verbose", False))

    def answer(self, value: object, text: str) -> None:
        """Print the outcome on stdout: the value as JSON if --json was given, else the text."""
        print(json.dumps(value, indent=2) if self.words.get("json") else text)


def lab_task(flags: str) -> Callable[[Callable[[Call], None]], Callable[..., Any]]:
    """Make an Invoke task of body(call), with these flags (separated by spaces); its docstring is the help."""
    names = flags.split()

    def decorate(body: Callable[[Call], None]) -> Callable[..., Any]:
        @functools.wraps(body)
        def run(_: Context, **words: Any) -> None:
            with guard():
                body(Call(words))

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(name, kind, default=_FLAGS[name][0]) for name in names]
        run.__signature__ = inspect.Signature([inspect.Parameter("c", kind), *parameters])  # type: ignore[attr-defined]
        # Short flags would be dealt out by Invoke in the order of the flags, other ones in every task.
        made: Callable[..., Any] = task(
            run,
            auto_shortflags=False,
            help={name: _FLAGS[name][1] for name in names},
            iterable=[name for name in names if isinstance(_FLAGS[name][0], list)],
        )
        return made

    return decorate


def after_dashes() -> list[str]:
    """Return the words after `--` as they were typed; Invoke would glue them together."""
    return sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
