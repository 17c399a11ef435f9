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


# Output of others, as their programs print it.
DIALECTS: dict[str, str] = {
    "bats": "1..4\nok 1 create in 12ms\nnot ok 2 delete # in 812 ms\n# (in test file tests/delete.bats, line 7)\n"
    "#   `false' failed\nok 3 hooks # skip not root\nnot ok 4 kill in 30002ms # timeout after 30s\n",
    "crun": "1..3\nok 1 - no-caps # 0.041s\nnot ok 2 - bounding # 0.052s\nok 3 - ambient #SKIP no such kernel # 0.001s\n",
    "node-tap": "TAP version 13\nok 1 - validation/create/create.t # time=812.4ms {\n    ok 1 - a\n    1..1\n    # time=800ms\n}\n\n"
    "not ok 2 - validation/delete/delete.t # time=2210.12ms {\n    ok 1 - b\n    not ok 2 - c\n      ---\n      found: 1\n"
    "      wanted: 2\n      ...\n    1..2\n    # failed 1 of 2 tests\n}\n  ---\n  exitCode: 1\n  ...\n\n"
    "ok 3 - validation/kill/kill.t # SKIP no tests found {\n    1..0\n}\n\n1..3\n# time=3051.9ms\n",
    "tap14": "TAP version 14\n1..3\n# Subtest: hooks\n    1..2\n    ok 1 - prestart\n    # Subtest: deeper\n        ok 1 - leaf\n"
    "        1..1\n    ok 2 - deeper\nok 1 - hooks\n    # Subtest: mounts\n    not ok 1 - bind\n      ---\n      message: 'no'\n      ...\n"
    "    1..1\nnot ok 2 - mounts\nok 3 - plain\n",
    "ktap": "KTAP version 1\n1..2\n  KTAP version 1\n  # Subtest: s\n  1..2\n  ok 1 a\n  not ok 2 b # TIMEOUT\n"
    "not ok 1 s\nok 2 t # SKIP no\n",
    "kselftest": "TAP version 13\n1..2\n# selftests: cgroup: core\n# TAP version 13\n# 1..2\n# ok 1 a\n# not ok 2 b\n"
    "# # Totals: pass:1 fail:1\nnot ok 1 selftests: cgroup: core # exit=1\n# selftests: cgroup: kill\n#\n"
    "not ok 2 selftests: cgroup: kill # TIMEOUT 45 seconds\n",
    "prove": "validation/create/create.t .. \nTAP version 13\nok 1 - a\n1..1\nok\nvalidation/delete/delete.t .. \nnot ok 1 - b\n"
    "ok 2 - c\n1..2\nDubious, test returned 1 (wstat 256, 0x100)\nFailed 1/2 subtests \nvalidation/kill/kill.t .... \n"
    "1..0 # SKIP no\nskipped: no\n\nTest Summary Report\n-------------------\n"
    "validation/delete/delete.t (Wstat: 256 Tests: 2 Failed: 1)\n  Failed test:  1\nFiles=3, Tests=3,  1 wallclock secs\n"
    "Result: FAIL\n",
    "prove without -v": "t/create.t .. ok\nt/delete.t .. Failed 1/2 subtests \nt/kill.t .... skipped: no\n\n"
    "Test Summary Report\n-------------------\nt/delete.t (Wstat: 0 Tests: 2 Failed: 1)\n  Failed test:  1\n"
    "Files=3, Tests=3,  1 wallclock secs\nResult: FAIL\n",
    "contest": "# Start group hooks\n1 / 2 : hooks : ok\n2 / 2 : prestart : not ok\n\tno output\n# End group hooks\n\n"
    "# Start group net\n1 / 1 : net : skipped\n\tno cgroup v1\n# End group net\n\n",
    "head": "==> create.tap <==\nok 1 - a\n1..1\n\n==> delete.tap <==\nnot ok 1 - b\n1..1\n",
    "yaml": "TAP version 13\nnot ok 1 - a\n  ---\n  message: it is not\n  got: [1, 2]\n  expected:\n    - 1\n  at: {file: x.c, line: 3}\n"
    "  ...\n1..1\n",
}
