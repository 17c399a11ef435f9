"""What happens to a file of output on its way to who reads it: each a function from bytes to bytes, by name.

The prefixes are those that CI systems, log collectors and terminals write; count is the number of the line.
"""

from __future__ import annotations

import json
from collections.abc import Callable

Change = Callable[[bytes], bytes]


def _each(prefix: Callable[[int], str], *, trim: bool = False) -> Change:
    """trim: what shows the log leaves out spaces at the ends of lines."""

    def change(data: bytes) -> bytes:
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        rest = lines.pop() if lines[-1] == "" else None
        changed = [prefix(count) + line for count, line in enumerate(lines)]
        changed = [line.rstrip(" ") for line in changed] if trim else changed
        return "\n".join([*changed, *([""] if rest is not None else [])]).encode("utf-8", "surrogateescape")

    return change


def _clock(count: int) -> str:
    return f"{9 + count // 3600 % 12:02}:{count // 60 % 60:02}:{count % 60:02}"


MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
PREFIXES: dict[str, Callable[[int], str]] = {
    "github": lambda n: f"2026-03-01T{_clock(n)}.{n * 7919 % 10**7:07}Z ",
    "gh run view --log": lambda n: f"build\tRun make localvalidation\t2026-03-01T{_clock(n)}.{n % 10**7:07}Z ",
    "gitlab": lambda n: f"2026-03-01T{_clock(n)}.{n % 10**6:06}Z 0{n % 2}{'OE'[n % 5 == 0]} ",
    "jenkins": lambda n: f"[2026-03-01T{_clock(n)}.{n % 1000:03}Z] ",
    "jenkins, short": lambda n: f"{_clock(n)}  ",
    "a clock": lambda n: f"{_clock(n)} ",
    "a clock in brackets": lambda n: f"[{_clock(n)}] ",
    "azure": lambda n: f"2026-03-01T{_clock(n)}.{n % 10**7:07}Z ",
    "zuul": lambda n: f"2026-03-01 {_clock(n)}.{n % 10**6:06} | node-{1} | ",
    "moreutils ts": lambda n: f"{MONTHS[n % 12]} {n % 28 + 1:02} {_clock(n)} ",
    "ts -s, with fractions": lambda n: f"{_clock(n)}.{n % 10**6:06} ",
    "seconds": lambda n: f"{n / 7:.3f}: 16776619{n % 90 + 10}.{n % 1000:03} ",
    "syslog": lambda n: f"Mar {n % 28 + 1:2} {_clock(n)} host-3 validation[{4000 + n % 3}]: ",
    "syslog 5424": lambda n: f"<14>1 2026-03-01T{_clock(n)}.{n % 1000:03}Z host app 42 - - ",
    "journald": lambda n: f"Mär 01 {_clock(n)} vm sh[812]: ",
    "journald, iso": lambda n: f"2026-03-01T{_clock(n)}+0100 vm sh[812]: ",
    "docker compose": lambda n: "runner-1  | ",
    "docker -t": lambda n: f"2026-03-01T{_clock(n)}.{n % 10**9:09}Z ",
    "kubectl --prefix": lambda n: "[pod/validation-7f9c/runner] ",
    "cri": lambda n: f"2026-03-01T{_clock(n)}.{n % 10**9:09}Z {('stdout', 'stderr')[n % 9 == 0]} F ",
    "buildkit": lambda n: f"#12 {n / 9:.3f} ",
    "kernel": lambda n: f"[{n / 11:12.6f}] ",
    "kernel, by level": lambda n: f"<6>[{n / 11:12.6f}] ",
    "a logger": lambda n: f"2026-03-01 {_clock(n)},{n % 1000:03} {('INFO', 'WARNING', 'ERROR')[n % 3]} runner: ",
    "klog": lambda n: f"I0301 {_clock(n)}.{n % 10**6:06}    {n % 9 + 1} runner.go:{n % 300}] ",
    "a mail": lambda n: "> ",
    "a mail in a mail": lambda n: "> > ",
    "a diff": lambda n: "+",
    "line numbers": lambda n: f"{n + 1:6}\t",
    "grep -n": lambda n: f"{n + 1}:",
    "github in a mail": lambda n: f"> 2026-03-01T{_clock(n)}.{n % 10**7:07}Z ",
    "compose at gitlab": lambda n: f"2026-03-01T{_clock(n)}.{n % 10**6:06}Z 00O runner-1  | ",
}
INDENTATIONS = {"4 spaces": "    ", "2 spaces": "  ", "a tab": "\t", "1 space": " ", "12 spaces": " " * 12}


def _colours(data: bytes) -> bytes:
    """Words in the colours that test runners give them, and an erased line here and there."""
    out = []
    for count, line in enumerate(data.split(b"\n")):
        if line.startswith(b"ok"):
            line = b"\x1b[32mok\x1b[0m" + line[2:]
        elif line.startswith(b"not ok"):
            line = b"\x1b[1;31mnot ok\x1b[0m" + line[6:]
        elif line.strip() and count % 7 == 0:
            line = b"\x1b[0K\x1b[38;5;208m" + line + b"\x1b[m"
        out.append(line)
    return b"\n".join(out)


def _json_lines(key: str, ended: bool, **more: str) -> Change:
    def change(data: bytes) -> bytes:
        lines = data.decode("utf-8", "replace").splitlines(keepends=ended)
        return "".join(json.dumps({key: line, **more}) + "\n" for line in lines).encode()

    return change


def _utf16(data: bytes) -> bytes:
    return data.decode("utf-8", "replace").encode("utf-16")


CHANGES: dict[str, Change] = {
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "two of them": lambda data: b"\xef\xbb\xbf\xef\xbb\xbf" + data,
    "a misread byte order mark": lambda data: "\ufeff".encode().decode("latin-1").encode() + data,
    "CR LF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR CR LF": lambda data: data.replace(b"\n", b"\r\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "UTF-16": _utf16,
    "UTF-16 BE": lambda data: b"\xfe\xff" + data.decode("utf-8", "replace").encode("utf-16-be"),
    "UTF-16 without a mark": lambda data: data.decode("utf-8", "replace").encode("utf-16-le"),
    "UTF-32": lambda data: data.decode("utf-8", "replace").encode("utf-32"),
    "PowerShell": lambda data: _utf16(data.replace(b"\n", b"\r\n")),
    "colours": _colours,
    "colours at github": lambda data: _each(PREFIXES["github"])(_colours(data)),
    "colours, shown": lambda data: _colours(data).replace(b"\x1b", b"^["),
    "colours, their escape lost": lambda data: _colours(data).replace(b"\x1b", b""),
    "docker's json": _json_lines("log", True, stream="stdout", time="2026-03-01T09:12:44.123456789Z"),
    "journalctl -o json": _json_lines("MESSAGE", False, PRIORITY="6"),
    "script": lambda data: b"Script started on 2026-03-01\r\n" + data.replace(b"\n", b"\r\n") + b"\r\nScript done\r\n",
    "fenced": lambda data: b"```\n" + data + b"```\n",
    **{name: _each(prefix) for name, prefix in PREFIXES.items()},
    **{f"{name}, trimmed": _each(prefix, trim=True) for name, prefix in PREFIXES.items()},
    **{name: _each(lambda _, indent=indent: indent) for name, indent in INDENTATIONS.items()},  # type: ignore[misc]
    "github, CR LF, a mark": lambda data: b"\xef\xbb\xbf" + _each(PREFIXES["github"])(data).replace(b"\n", b"\r\n"),
    "indented at jenkins": lambda data: _each(PREFIXES["jenkins"])(_each(lambda _: "    ")(data)),
    "jenkins, indented": lambda data: _each(lambda _: "    ")(_each(PREFIXES["jenkins"])(data)),
}
