"""The program: Invoke with labkit's tasks. `./lab TASK`, `labkit TASK` and, in a checkout, `invoke TASK` are one."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import re
import sys
from collections.abc import Iterator

from invoke.collection import Collection
from invoke.exceptions import Exit, ParseError
from invoke.parser.argument import Argument
from invoke.parser.context import ParserContext
from invoke.program import Program

from labkit.cli import completion
from labkit.cli.console import guard
from labkit.cli.flags import CORE_FLAGS, FLAGS, Command, LabTask, flag_spec, refuse_empty, with_flags
from labkit.core import resources
from labkit.core.errors import UsageError
from labkit.core.suggest import did_you_mean
from labkit.io import version


class LabProgram(Program):
    """Invoke's program with labkit's flags and help, exit status 2 for wrong words, and a guess at what was meant."""

    @property
    def initial_context(self) -> ParserContext:
        """The flags before the task. Few of Invoke's own have a meaning here, and an unheeded --dry is a trap."""
        flags = [
            Argument(
                names=(name.replace("_", "-"), *row.short),
                kind=str if row.metavar else bool,
                default=row.default,
                optional=row.optional_value,
                help=row.text,
            )
            for name, row in CORE_FLAGS.items()
        ]
        return ParserContext(args=flags)

    def parse_core(self, argv: list[str] | None) -> None:
        self.normalize_argv(argv)
        with self._wrong_words():
            self.parse_core_args()
        self._answer_at_once()

    def parse_tasks(self) -> None:
        with self._wrong_words():
            super().parse_tasks()

    def parse_cleanup(self) -> None:
        self._answer_at_once()  # TASK --version
        topic = self.args.help.value
        if topic and topic is not True and topic not in self.parser.contexts:
            raise self._unknown_task(topic)
        if topic or not (self.args.list.value or self.args["print-man-page"].value or self.tasks):
            self.print_help() if topic in (True, None) else self.print_task_help(topic)
            raise Exit
        if self.args.list.value:
            self.list_tasks()
            raise Exit
        if self.args["print-man-page"].value:
            from labkit.cli import manual  # the settings, which it names, take a quarter of a second to load

            print(manual.page(commands(self.collection)), end="")
            raise Exit

    def update_config(self, merge: bool = True) -> None:
        """Nothing: labkit has a configuration of its own."""

    def print_help(self) -> None:
        print("Usage: ./lab TASK [FLAGS]\n\nFlags without a task:\n")
        self.print_columns([(flag_spec(name, row), row.text) for name, row in CORE_FLAGS.items()])
        self.list_tasks()

    def task_list_opener(self, extra: str = "") -> str:
        return "Tasks"

    def print_task_help(self, name: str) -> None:
        command = commands(self.collection)[name]
        rows = [(flag, FLAGS[flag]) for flag in command.flags]
        print(f"Usage: {command.usage}\n\n{command.doc}\n")
        if command.words:
            words = (*command.words, *([command.rest] if command.rest else []))
            self.print_columns([(FLAGS[word].metavar, FLAGS[word].text) for word in words])
        if rows:
            print("Flags:\n")
            self.print_columns([(flag_spec(flag, row), row.text) for flag, row in rows])

    def _answer_at_once(self) -> None:
        """What needs no task."""
        for name in CORE_FLAGS:
            flag = name.replace("_", "-")
            refuse_empty(f"--{flag}", self.args[flag].value)
        if self.args.version.value:
            print(f"labkit {version.full()}")
            raise Exit
        if shell := self.args["print-completion-script"].value:
            print(completion.script(shell), end="")
            raise Exit

    @contextlib.contextmanager
    def _wrong_words(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            task = error.context.name if error.context else None
            hint = f"./lab {task} --help shows its flags" if task else "./lab --list shows the tasks"
            if missing := re.fullmatch(r"'(.*)' did not receive required positional arguments: (.*)", str(error)):
                names = [FLAGS[name.replace("-", "_")].metavar for name in re.findall(r"'(.*?)'", missing[2])]
                raise UsageError(f"{missing[1]} needs {' and '.join(names)}", hint=self._usage(missing[1])) from error
            found = re.fullmatch(r"No idea what '(.*)' is!", str(error), re.DOTALL)
            if not found:
                raise UsageError(re.sub(r"<Argument: ([\w-]+).*?>", r"--\1", str(error)), hint=hint) from error
            word = found[1]
            if word.startswith("-"):
                known = error.context.flags if error.context else {}
                raise UsageError(f"unknown flag {word!r}{did_you_mean(word, known)}", hint=hint) from error
            raise self._unknown_task(word) from error

    def _unknown_task(self, word: str) -> UsageError:
        """Of a word that is no task; where there is a task before it, it is one word too many for that."""
        before = sys.argv[1 : sys.argv.index(word)] if word in sys.argv else []
        hint = "./lab --list shows the tasks"
        if before and before[0] in self.collection.task_names:
            if (flag := before[-1]).startswith("--") and flag in before[:-1]:
                return UsageError(f"{flag} is given twice", hint=f"it takes one value; {self._usage(before[0])}")
            hint = f"{self._usage(before[0])}; {hint}"
        guess = did_you_mean(word, self.collection.task_names)
        return UsageError(f"unknown task {word!r}{guess}", hint=hint)

    def _usage(self, task: str) -> str:
        return f"usage: {commands(self.collection)[task].usage}"


def commands(tasks: Collection) -> dict[str, Command]:
    """The rows of the tasks, by name."""
    return {name: task.command for name, task in sorted(tasks.tasks.items()) if isinstance(task, LabTask)}


def main() -> None:
    """Run the tasks that the command line names, and exit with the status that the contract gives (docs)."""
    with guard():
        if sys.argv[1:2] == ["--complete"]:
            completion.answer(sys.argv[2:], lambda: commands(_tasks()))
            return
        tasks = _tasks()
        program = LabProgram(namespace=tasks, name="labkit", binary="./lab")
        try:
            program.run(with_flags(_help_first(sys.argv), commands(tasks)))
        finally:
            gc.freeze()  # the interpreter's last collection has nothing to find here, and takes 0.08 s for it


def _tasks() -> Collection:
    spec = importlib.util.spec_from_file_location("tasks", resources.root() / "tasks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Collection.from_module(module)


def _help_first(argv: list[str]) -> list[str]:
    """`TASK --help` as `--help TASK`, which Invoke understands also where the task wants a word of its own."""
    words = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    asked = words and not words[0].startswith("-") and {"--help", "-h"} & set(words)
    return [argv[0], "--help", words[0]] if asked else argv
