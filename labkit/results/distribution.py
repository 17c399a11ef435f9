"""What distribution-spec's conformance program writes, as results: junit.xml, and results.yaml. Pure.

junit.xml has a test case for each test, by its name in the tree of tests alone: a test that pushes five blobs has five
of one name, in the order of a Go map, which is another one each time. So they are numbered from the worst to the best:
the same outcomes have the same ids. Where there is only results.yaml, its API and data
entries are the results, each the worst of the tests that it is about.

The older program, of ginkgo, wrote a junit.xml of another shape, which is read too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from labkit.core.text import truncate
from labkit.results.model import URGENCY, Result, Verdict
from labkit.results.tap import JSON
from labkit.results.values import parse_yaml

JUNIT, YAML, REPORT = "junit.xml", "results.yaml", "report.html"
_MOST = 20_000  # test cases
_TEXT = 4000  # characters of what a test says
_ROOT = "OCI Conformance Test"
# How each program's junit.xml begins.
_BEGINS = (b'name="OCI Conformance Test"', b'name="OCI Distribution Conformance Tests"', b'name="conformance tests"')
_HEAD = 4096  # bytes in which that stands
_OF_CASE = {
    "passed": Verdict.PASS,
    "skipped": Verdict.SKIP,
    "pending": Verdict.SKIP,
    "failure": Verdict.FAIL,
    "failed": Verdict.FAIL,
    "error": Verdict.ERROR,
    "panicked": Verdict.ERROR,
    "interrupted": Verdict.ERROR,
    "aborted": Verdict.ERROR,
    "timedout": Verdict.TIMEOUT,
}
_OF_STATUS = {
    "Pass": Verdict.PASS,
    "Skip": Verdict.SKIP,
    "Disabled": Verdict.SKIP,
    "FAIL": Verdict.FAIL,
    "Error": Verdict.ERROR,
}
_DISABLED = "disabled by the configuration"


@dataclass(frozen=True, slots=True)
class Tests:
    """results, numbered. counts: the program's own, which are of outcomes: a test may have several."""

    results: tuple[Result, ...]
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The program's own counts, in words."""
        if not self.counts.get("tests"):
            return ""
        named = {"failures": "failed", "errors": "errors", "skipped": "skipped", "disabled": "disabled"}
        rest = [f"{self.counts[key]} {word}" for key, word in named.items() if self.counts.get(key)]
        return f"the program itself counts {self.counts['tests']} outcomes: {', '.join(rest) or 'all passed'}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What results.yaml says: version of distribution-spec, commit of the program, registry (HOST:PORT), and the worst
    outcome of each API and each kind of data, as results.
    """

    version: str
    commit: str
    registry: str
    results: tuple[Result, ...]


def is_junit(head: bytes) -> bool:
    """Whether a file that begins so is a junit.xml of the program, this one or the older."""
    return any(begin in head[:_HEAD] for begin in _BEGINS)


def is_yaml(head: bytes) -> bool:
    """Whether a file that begins so is a results.yaml of the program."""
    return head.startswith(b"config:") and b"\n  registry:" in head[:_HEAD] and b"\n  repo1:" in head[:_HEAD]


def read_junit(data: bytes) -> Tests:
    """The tests in a junit.xml. ValueError where it is none, not whole, or has what a small file makes gigabytes of."""
    try:
        parser = ElementTree.XMLParser(target=_Builder())
        parser.feed(data)
        root = parser.close()
    except (ElementTree.ParseError, LookupError) as error:  # an encoding that there is not
        raise ValueError(f"is not XML, or not whole: {error}") from None
    suites = root.findall("testsuite") if root.tag == "testsuites" else [root]
    if root.tag not in ("testsuites", "testsuite") or not suites:
        raise ValueError("has no test suite")
    counts = {key: _count(suites[0].get(key, "")) for key in ("tests", "failures", "errors", "skipped", "disabled")}
    cases = [case for suite in suites for case in suite.findall("testcase")]
    if len(cases) > _MOST:
        raise ValueError(f"has {len(cases)} test cases, more than {_MOST}")
    found = [_result(case) for case in cases]
    failed = counts["failures"] + counts["errors"]
    if bool(failed) != any(result.bad for result in found):
        raise ValueError(f"counts {failed} failures, and has {sum(result.bad for result in found)} tests that failed")
    return Tests(_numbered(found), counts)


def read_yaml(text: str) -> Summary:
    """What a results.yaml says. ValueError where it is none."""
    value = parse_yaml(text)
    config = value.get("config") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(config, dict):
        raise ValueError("has no config")
    results: list[Result] = []
    for key, kind in (("apis", "api"), ("data", "data")):
        entries = value.get(key)
        if not isinstance(entries, dict):
            raise ValueError(f"has no {key}")
        for name, status in entries.items():
            verdict = _OF_STATUS.get(status) if isinstance(status, str) else None
            if verdict is None:
                raise ValueError(
                    f"{key}.{name} is {truncate(str(status), 60)!r}, must be one of {', '.join(_OF_STATUS)}"
                )
            reason: dict[str, JSON] = {"reason": _DISABLED} if status == "Disabled" else {}
            results.append(Result(f"{kind}/{_slug(name)}", name, "", "", verdict, 0.0, reason))

    def word(key: str) -> str:
        found = config.get(key)
        return found if isinstance(found, str) else "" if found is None else str(found)

    commit = word("commit")
    return Summary(word("version"), "" if commit == "unknown" else commit, word("registry"), tuple(results))


class _Builder(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """What entities are made with: no program of this kind writes one."""
        raise ValueError("has a document type, with which a small file makes gigabytes")


def _result(case: ElementTree.Element) -> Result:
    name = case.get("name", "")
    name = re.sub(rf"^{_ROOT}/|^\[\w+\] ", "", name)
    status = case.get("status", "")
    child = next((tag for tag in ("error", "failure", "skipped") if case.find(tag) is not None), "")
    verdict = _OF_CASE.get(status or child or "passed")
    if not name or verdict is None:
        raise ValueError(f"has a test case called {truncate(name, 60)!r} whose status is {truncate(status, 60)!r}")
    inside = case.find(child) if child else None
    parts = [case.findtext("system-out"), *((inside.get("message"), inside.text) if inside is not None else ())]
    said = "\n".join(dict.fromkeys(part.strip() for part in parts if part and part.strip()))
    diagnostic: dict[str, JSON] = {}
    if verdict is Verdict.SKIP:
        diagnostic["reason"] = truncate(said, _TEXT) or _DISABLED
    elif verdict is not Verdict.PASS:
        diagnostic["message"] = truncate(said, _TEXT) or "it says nothing"
    return Result(_slug(name), name, "", "", verdict, _seconds(case.get("time", "")), diagnostic)


def _numbered(found: Sequence[Result]) -> tuple[Result, ...]:
    """The results with ids of their own: those of one name from the worst to the best, in the place of the first."""
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(result.id, []).append(result)
    numbered: list[Result] = []
    for ident, group in groups.items():
        group.sort(key=lambda result: (URGENCY[result.verdict], str(result.diagnostic)))
        for number, result in enumerate(group, 1):
            own = ident if number == 1 else f"{ident}/{number}"
            numbered.append(_with_id(result, own))
    return tuple(numbered)


def _with_id(result: Result, ident: str) -> Result:
    return Result(ident, result.name, "", "", result.verdict, result.seconds, result.diagnostic)


def _slug(name: str) -> str:
    """A name as an id: what has spaces, or what lists and patterns give a meaning to, cannot be typed."""
    return re.sub(r"[^\w.+/=:-]+", "-", name[:300], flags=re.ASCII).strip("-") or "unnamed"


def _count(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,7}", text) else 0


def _seconds(text: str) -> float:
    return min(float(text), 1e6) if re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,12})?", text) else 0.0
