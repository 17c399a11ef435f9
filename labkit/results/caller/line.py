"""Checks of the command line, and of the descriptors that come with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from labkit.core.text import one_line
from labkit.results.caller import words
from labkit.results.caller.calls import Call
from labkit.results.caller.findings import Check, Finding, Found, Undecided


@dataclass(frozen=True, slots=True)
class _Option:
    name: str
    value: str | None
    at: int  # among the words


def _read(command: str, given: tuple[str, ...]) -> tuple[list[_Option], list[tuple[int, str]]]:
    """The options among words, and the words that are neither options nor their values, each with its place."""
    options: list[_Option] = []
    rest: list[tuple[int, str]] = []
    at = 0
    while at < len(given):
        word = given[at]
        if word == "--":
            return options, rest + list(enumerate(given[at + 1 :], at + 1))
        if not word.startswith("-") or word == "-":
            rest.append((at, word))
        elif "=" in word:
            name, _, value = word.partition("=")
            options.append(_Option(name, value, at))
        elif words.valued(command, word):
            options.append(_Option(word, given[at + 1] if at + 1 < len(given) else None, at))
            at += 1
        else:
            options.append(_Option(word, "", at))
        at += 1
    return options, rest


def _asks_alone(call: Call) -> bool:
    """Whether the call asks the program about itself, as `--version` does."""
    return not call.command and any(word in words.ALONE for word in call.options)


def commands(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command in words.DOCUMENT:
            yield None
        elif call.command:
            name = one_line(call.command, 60)
            yield Finding(f"command {name}", call, "a command of the document", name, call.command in words.PRACTICE)


def options(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        for option in _read("", call.options)[0]:
            name = one_line(option.name, 60)
            known = option.name in words.GLOBAL or (option.name in words.ALONE and not call.command)
            yield Finding(f"option {name}", call, "no option before the command", name, known)
        has = words.DOCUMENT.get(call.command)
        practised = words.PRACTICE.get(call.command, frozenset())
        for option in _read(call.command, call.words)[0]:
            if has is not None and option.name in has:
                yield None
            elif has is not None or option.name not in practised:  # of another command, that is what is told
                name = one_line(option.name, 60)
                expected = f"an option that the document has for {call.command}"
                yield Finding(f"{call.command} {name}", call, expected, name, option.name in practised)
        yield None


def named(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if not call.argv:
            yield Finding("no words at all", call, "a command")
        elif not call.command and not _asks_alone(call):
            yield Finding("no command", call, "a command", one_line(" ".join(call.argv), 200))
        elif call.command:
            alone = _read("", call.options)[1]
            if alone and not _unknown_before(call):
                yield Finding("words before the command", call, "options", one_line(" ".join(w for _, w in alone), 100))
            else:
                yield None


def _unknown_before(call: Call) -> bool:
    """Whether options that nobody knows stand before the command: a word after one may be its value."""
    return any(option.name not in words.GLOBAL for option in _read("", call.options)[0])


def arguments(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command not in words.DOCUMENT:
            continue
        found = [word for _, word in _read(call.command, call.words)[1]]
        most = 2 if call.command == "kill" else 1
        if not found:
            yield Finding(f"{call.command} without an ID", call, "one ID", "none")
        elif not found[0]:
            yield Finding(f"{call.command} with an empty ID", call, "an ID")
        elif len(found) > most:
            yield Finding(f"{call.command} with more than an ID", call, "one ID", one_line(" ".join(found), 200))
        else:
            yield None


def signals(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command != "kill":
            continue
        given, rest = _read("kill", call.words)
        option = next((one for one in reversed(given) if one.name in ("--signal", "-s")), None)
        positional = rest[1][1] if len(rest) > 1 else None
        word = option.value if option else positional
        if word is None:
            yield None  # TERM
            continue
        plain = word.upper().removeprefix("SIG")
        known = plain.partition("+")[0].partition("-")[0] in words.SIGNALS or (
            word.isascii() and word.isdigit() and 0 < int(word[:9]) < 65
        )
        if not known:
            yield Finding("no signal", call, "TERM or KILL", one_line(word, 60))
        elif option is None:
            yield Finding("kill ID SIGNAL", call, "--signal TERM or --signal KILL", one_line(word, 60), True)
        elif word not in ("TERM", "KILL"):
            yield Finding("a signal that the document lacks", call, "TERM or KILL", one_line(word, 60), True)
        else:
            yield None


def once(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        given, rest = _read(call.command, call.words)
        before = _read("", call.options)[0]
        wrong = False
        for some in (before, given):
            seen: set[str] = set()
            for option in some:
                name = one_line(option.name, 60)
                if option.value is None or (option.value == "" and words.valued(call.command, option.name)):
                    wrong = True
                    yield Finding(f"{name} without a value", call, "a value")
                if option.name in seen and option.name not in words.REPEATED:
                    wrong = True
                    yield Finding(f"{name} twice", call, "once", name)
                seen.add(option.name)
        ours = call.command in words.DOCUMENT
        if ours and rest and any(option.at > rest[0][0] for option in given):
            wrong = True
            yield Finding("an option after the ID", call, "options before the ID", one_line(" ".join(call.words), 200))
        if not wrong:
            yield None


# --- descriptors


def _terminal(call: Call) -> bool | None:
    if call.config is None:
        return None
    process = call.config.get("process")
    return isinstance(process, dict) and process.get("terminal") is True


def bundles(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command != "create":
            continue
        if call.config is not None or "JSON" in call.config_error or call.left_out:
            yield None  # what is no JSON is another check's
        elif call.config_error:
            yield Finding("no config.json that can be read", call, "config.json", one_line(call.config_error, 200))
        else:
            yield Finding("no config.json", call, "config.json in the bundle")


def terminals(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command != "create" or (terminal := _terminal(call)) is None:
            continue
        socket = call.value("--console-socket")
        if terminal and socket is None:
            yield Finding("a terminal without --console-socket", call, "--console-socket")
        elif not terminal and socket is not None:
            yield Finding("--console-socket without a terminal", call, "process.terminal true", one_line(socket, 200))
        else:
            yield None


def console_numbers(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        socket = call.value("--console-socket")
        if call.command != "create" or socket is None:
            continue
        if not (socket.isascii() and socket.isdigit()):
            actual = one_line(socket, 200)
            yield Finding("--console-socket with a path", call, "the number of a descriptor", actual, True)
        elif call.fds is not None and socket not in call.fds:
            yield Finding("--console-socket with a number that is not open", call, "an open descriptor", socket)
        else:
            yield None


def console_sockets(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        socket = call.value("--console-socket")
        if call.command != "create" or socket is None:
            continue
        by_number = (call.fds or {}).get(socket, "") if socket.isascii() and socket.isdigit() else ""
        if (call.console and call.console != "socket") or (by_number and not by_number.startswith("socket:")):
            yield Finding("--console-socket with no socket", call, "a socket", one_line(by_number or call.console, 200))
        elif call.console or by_number:
            yield None
        else:
            yield Undecided(call, "the record does not tell what is at the path of --console-socket")


def listen_fds(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command != "create" or "LISTEN_FDS" not in call.env:
            continue
        text = call.listen_fds
        if not text:
            yield Undecided(call, "the record does not have the value of LISTEN_FDS")
        elif not (text.isascii() and text.isdigit()):
            yield Finding("LISTEN_FDS is no number", call, "a number", one_line(text, 60))
        elif call.fds is None:
            yield Undecided(call, "the record does not have the descriptors")
        elif missing := [number for number in range(3, 3 + min(int(text[:6]), 1000)) if str(number) not in call.fds]:
            some = ", ".join(map(str, missing[:10]))
            yield Finding("LISTEN_FDS counts descriptors that are not open", call, f"{text} from 3 on", f"not {some}")
        else:
            yield None


def state_stdout(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command == "state" and call.fds:
            yield None if "1" in call.fds else Finding("state with a closed stdout", call, "an open stdout")


def streams(calls: tuple[Call, ...]) -> Iterator[Found]:
    for call in calls:
        if call.command != "create" or not call.fds or _terminal(call) is not False:
            continue
        closed = [name for number, name in (("1", "stdout"), ("2", "stderr")) if number not in call.fds]
        yield Finding(f"create with a closed {' and '.join(closed)}", call, "open") if closed else None


CHECKS: dict[str, Check] = {
    "CALL-001": commands,
    "CALL-002": options,
    "CALL-003": named,
    "CALL-004": arguments,
    "CALL-005": signals,
    "CALL-006": once,
    "CALL-010": bundles,
    "CALL-011": terminals,
    "CALL-012": console_numbers,
    "CALL-013": console_sockets,
    "CALL-014": listen_fds,
    "CALL-015": state_stdout,
    "CALL-016": streams,
}
