"""The task `policy`: which words and flags each of its actions takes, and how the outcome is shown."""

from __future__ import annotations

import sys
from pathlib import Path

from labkit.cli.flags import Call, spelt
from labkit.core.errors import UsageError
from labkit.core.text import printable
from labkit.usecases import policy
from labkit.usecases.policy import Checked, Written

_FLAGS = {
    "add": ("reason", "link", "expires", "wide", "file"),
    "import": ("file", "syntax"),
    "check": ("shipped",),
}


def run(call: Call) -> None:
    """Do what the words say. UsageError where a flag is another action's."""
    action, words = call.words["action"], list(call.words["word"])
    for flag in sorted({flag for flags in _FLAGS.values() for flag in flags} - set(_FLAGS[action])):
        if call.words[flag]:
            of = next(name for name, flags in _FLAGS.items() if flag in flags)
            raise UsageError(f"policy {action} takes no {spelt(flag)}", hint=f"{spelt(flag)} is for `policy {of}`")
    if action == "add":
        _add(call, words)
    elif action == "import":
        _import(call, words)
    else:
        checked = policy.check(call.settings, words, shipped=call.words["shipped"])
        call.answer(checked.to_json(), lambda: _checked(checked))
        sys.exit(1 if checked.wrong else 0)


def _add(call: Call, words: list[str]) -> None:
    if len(words) < 2:
        raise UsageError(
            "policy add takes a run and what it showed: ids of checks, programs or results",
            hint="./lab policy add latest ID --reason TEXT",
        )
    if not call.words["reason"]:
        raise UsageError("policy add needs --reason: why that is expected", hint="whoever reads the report sees it")
    wide = [key.strip() for keys in call.words["wide"] for key in keys.split(",") if key.strip()]
    for key in wide:
        if key not in policy.NARROWED:
            raise UsageError(f"--wide is {key!r}, must be of {', '.join(policy.NARROWED)}")
    with call.console() as console:
        written = policy.add(
            call.settings,
            console,
            words[0],
            [word for listed in words[1:] for word in listed.split(",") if word],
            reason=call.words["reason"],
            link=call.words["link"] or "",
            expires=call.words["expires"] or "",
            file=call.words["file"],
            wide=wide,
        )
    call.answer(written.to_json(), lambda: _written(written))


def _import(call: Call, words: list[str]) -> None:
    if len(words) != 1:
        raise UsageError("policy import takes one file", hint="./lab policy import FILE")
    with call.console() as console:
        kind = call.words["syntax"]
        written = policy.take(call.settings, console, Path(words[0]), kind=kind, file=call.words["file"])
    call.answer(written.to_json(), lambda: _written(written))


def _written(written: Written) -> str:
    lines = [f"# {written.file}", ""] if written.entries else []
    lines += "\n".join(written.entries).splitlines()
    lines += [""] if written.entries else []
    lines.append(f"{policy.entries_word(len(written.entries))} written to {written.file}")
    return "\n".join(printable(line) for line in (*lines, *written.told))


def _checked(checked: Checked) -> str:
    lines = [f"{one.entry.source}: {problem}" for one in checked.entries for problem in one.problems]
    if checked.entries:
        idle = sum(not one.shown and not one.problems for one in checked.entries)
        runs = f"{len(checked.runs)} run{'' if len(checked.runs) == 1 else 's'}"
        entries = f"{policy.entries_word(len(checked.entries))} looked over with {runs}"
        about = f"; {idle} about what none of them showed" if idle else ""
        lines.append(f"{entries}: {checked.wrong or 'nothing'} wrong{about}")
    return "\n".join(printable(line) for line in (*lines, *checked.told))
