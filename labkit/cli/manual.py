"""The man page, made of the tables of tasks, flags and settings: `./lab --print-man-page >lab.1; man -l ./lab.1`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import labkit
from labkit.cli.flags import CORE_FLAGS, FLAGS, Command, Flag, spelt
from labkit.core import config

_EXIT_STATUSES = (
    ("0", "all as expected"),
    ("1", "a failure that the policy does not expect, or a policy entry that has expired"),
    ("2", "wrong usage or configuration"),
    ("3", "the lab itself failed; of `doctor`, that machines cannot be made here"),
    ("4", "the results are incomplete"),
    ("130", "interrupted; 143 by SIGTERM, 129 by SIGHUP, 141 if the reader of the output is gone"),
)
_ENVIRONMENT = (
    ("LABKIT_CONFIG", "the file to read in place of the nearest labkit.toml"),
    ("XDG_DATA_HOME", "where labkit/, the home of the lab, is made; else ~/.local/share"),
)
_FILES = (
    ("labkit.toml", "the configuration: the nearest one from the current directory upwards"),
    ("~/.local/share/labkit/", "the home of the lab: images, machines, downloads, keys"),
    ("~/.local/share/labkit/machines/NAME/", "a machine: its disk, console.log, record.json and pinned host key"),
    ("reports/ID/", "a run: results.json, results.tap, junit.xml, report.html, console.log, raw/"),
    ("reports/latest", "a link to the newest run"),
    (".labkit/venv/", "in a checkout: the Python environment of ./lab"),
)


def page(commands: Mapping[str, Command]) -> str:
    """The page as roff, with the man macros."""
    return "\n".join(_lines(commands)) + "\n"


def _lines(commands: Mapping[str, Command]) -> Iterator[str]:
    yield f'.TH LAB 1 "" "labkit {labkit.__version__}" "User Commands"'
    yield from (".SH NAME", r"lab, labkit \- a lab for OCI container runtimes")
    yield from (".SH SYNOPSIS", ".B lab", r".I TASK\/", r"[\fIFLAGS\fR]", ".br", ".B lab")
    yield " | ".join(_flag(name, row) for name, row in CORE_FLAGS.items())
    yield ".SH DESCRIPTION"
    yield from _text(
        "One command makes a clean virtual machine of a distribution with a container runtime on it; another runs a\n"
        "conformance suite against a runtime there and brings the reports home.\n\n"
        "./lab in a checkout, labkit where it is installed, and invoke in the checkout have the same tasks."
    )
    yield ".SH OPTIONS"
    yield from _table((_flag(name, row), row.text) for name, row in CORE_FLAGS.items())
    yield ".SH TASKS"
    for command in commands.values():
        yield f".SS {_bold(command.usage.removeprefix('./'))}"
        yield from _text(command.doc)
        words = (*command.words, *([command.rest] if command.rest else []))
        yield from _table((rf"\fI{_escaped(FLAGS[word].metavar)}\fR", FLAGS[word].text) for word in words)
        yield from _table((_flag(flag, FLAGS[flag]), FLAGS[flag].text) for flag in command.flags)
    yield from (".SH EXIT STATUS", *_text("Of `test`, `report` and `judge`; the other tasks end with 0, 2, 3 or 130."))
    yield from _table((_bold(status), text) for status, text in _EXIT_STATUSES)
    yield ".SH ENVIRONMENT"
    yield from _text(
        "Flags come before these variables, and these before the keys of labkit.toml that are named here.\n"
        "An empty variable counts as not set."
    )
    yield from _table((_bold(name), text) for name, text in (*_ENVIRONMENT, *config.variables().items()))
    yield from (".SH FILES", *_table((rf"\fI{_escaped(name)}\fR", text) for name, text in _FILES))
    yield from (".SH SEE ALSO", r".BR ssh (1),", r".BR qemu\-system\-x86_64 (1),", r".BR vagrant (1),", r".BR runc (8)")


def _flag(name: str, row: Flag) -> str:
    short = rf"\fB\-{row.short}\fR, " if row.short else ""
    value = rf"\fI{_escaped(row.metavar)}\fR"
    value = f" [{value}]" if row.optional_value else f" {value}" if row.metavar else ""
    return f"{short}{_bold(spelt(name))}{value}"


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Tagged paragraphs; the tags are roff already."""
    for tag, text in rows:
        yield from (".TP", tag, _prose(text))


def _text(text: str) -> Iterator[str]:
    """Paragraphs; what is indented is an example and keeps its lines."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        in_example = False
        for line in paragraph.splitlines():
            if line.startswith("    ") != in_example:
                yield from ((".EE", ".RE") if in_example else (".RS 4", ".EX"))
                in_example = not in_example
            yield _literal(line.strip()) if in_example else _prose(line)
        if in_example:
            yield from (".EE", ".RE")


def _prose(line: str) -> str:
    """A line of help, its words in backticks bold."""
    return _protected(re.sub(r"`([^`]*)`", r"\\fB\1\\fR", _escaped(line)))


def _literal(text: str) -> str:
    return _protected(_escaped(text))


def _bold(text: str) -> str:
    return rf"\fB{_escaped(text)}\fR"


def _escaped(text: str) -> str:
    """Text that roff prints as it is: dashes that can be copied, no escapes, ASCII quotes."""
    return (
        text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("~", r"\(ti").replace("^", r"\(ha")
    )


def _protected(line: str) -> str:
    return rf"\&{line}" if line.startswith(".") else line
