"""The program: Invoke with labkit's tasks. `./lab TASK`, `labkit TASK` and, in a checkout, `invoke TASK` are one."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import io
import re
import sys
from collections.abc import Iterator

from invoke.collection import Collection
from invoke.exceptions import ParseError
from invoke.program import Program

from labkit import __version__
from labkit.cli.console import guard
from labkit.core import resources
from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean


class LabProgram(Program):
    """Invoke's program with exit status 2 for wrong words, and a guess at what was meant."""

    def parse_core(self, argv: list[str] | None) -> None:
        out = io.StringIO()
        try:
            with self._wrong_words(), contextlib.redirect_stdout(out):
                super().parse_core(argv)
        finally:
            # Invoke's script for bash calls `lab`, which need not be on the PATH: call what the person typed.
            sys.stdout.write(out.getvalue().replace("`lab --complete", '`"${COMP_WORDS[0]}" --complete'))
            # Invoke turns the bytecode cache off; then every command would compile labkit again.
            sys.dont_write_bytecode = False

    def parse_tasks(self) -> None:
        with self._wrong_words():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        if self.args.complete.value:  # Invoke knows itself by name only, not as ./lab or /some/where/lab
            self.core.remainder = "lab " + self.core.remainder.partition(" ")[2]
        with self._wrong_words():
            super().parse_cleanup()

    @contextlib.contextmanager
    def _wrong_words(self) -> Iterator[None]:
        try:
            yield
        except ValueError as error:  # Invoke converts numbers (--list-depth x) without a look
            raise UsageError(f"a flag has a wrong value: {error}") from error
        except ParseError as error:
            task = error.context.name if error.context else None
            hint = f"./lab {task} --help shows its flags" if task else "./lab --list shows the tasks"
            found = re.fullmatch(r"No idea what '(.*)' is!", str(error), re.DOTALL)
            if not found:
                raise UsageError(re.sub(r"<Argument: ([\w-]+).*?>", r"--\1", str(error)), hint=hint) from error
            word = found[1]
            if word.startswith("-"):
                known = error.context.flags if error.context else {}
                raise UsageError(f"unknown flag {word!r}{did_you_mean(word, known)}", hint=hint) from error
            guess = did_you_mean(word, self.collection.task_names)
            raise UsageError(f"unknown task {word!r}{guess}", hint="./lab --list shows the tasks") from error


def main() -> None:
    """Run the tasks that the command line names, and exit with the status that the contract gives (docs)."""
    with guard():
        spec = importlib.util.spec_from_file_location("tasks", resources.root() / "tasks.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        tasks = Collection.from_module(module)
        names = ["lab", "labkit"]
        program = LabProgram(version=__version__, namespace=tasks, name="labkit", binary="lab", binary_names=names)
        try:
            program.run(_help_first(sys.argv))
        finally:
            gc.freeze()  # the interpreter's last collection has nothing to find here, and takes 0.08 s for it


def _help_first(argv: list[str]) -> list[str]:
    """`TASK --help` as `--help TASK`, which Invoke understands also where the task wants a word of its own."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    asked = words and not words[0].startswith("-") and {"--help", "-h"} & set(words)
    return [argv[0], "--help", words[0]] if asked else argv
