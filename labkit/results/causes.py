"""What many failures have in common: the same words of the runtime, whatever ids and paths are in them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from labkit.core.text import one_line
from labkit.results.model import Result, lasting
from labkit.results.tap import JSON

LEAST = 3  # checks that fail alike, for it to be a cause
_LONGEST = 300  # characters of a cause's words
_LOOKED_AT = 20_000  # characters of what a check says
_SOMETHING = "…"


@dataclass(frozen=True, slots=True)
class Cause:
    """words: what the checks say, or what the runtime said to them, without what differs. checks: ids, or names of
    programs, in the order of the results.
    """

    words: str
    checks: tuple[str, ...]

    def to_json(self) -> dict[str, JSON]:
        return {"words": self.words, "count": len(self.checks), "checks": list(self.checks)}

    @property
    def text(self) -> str:
        return f"{len(self.checks)} fail alike: {self.words}"


def causes(results: Iterable[Result]) -> list[Cause]:
    """The causes that at least LEAST checks or programs share, the most frequent first. Each result has one at most."""
    return divided(results)[0]


def divided(results: Iterable[Result]) -> tuple[list[Cause], list[Result]]:
    """The causes, and the results that have none of them."""
    found: dict[str, list[Result]] = {}
    results = list(results)
    for result in results:
        found.setdefault(words_of(result), []).append(result)
    several = [
        Cause(words, tuple(dict.fromkeys(result.program or result.id for result in alike)))
        for words, alike in found.items()
        if words
    ]
    several = [cause for cause in several if len(cause.checks) >= LEAST]
    with_one = {id(result) for cause in several for result in found[cause.words]}
    ordered = sorted(several, key=lambda cause: (-len(cause.checks), cause.words))
    return ordered, [result for result in results if id(result) not in with_one]


def words_of(result: Result) -> str:
    """Why a result is bad, in words that others that are bad for the same reason have too; "" where it says nothing."""
    message = next(_texts(result), "")
    words: set[str] = set()
    for argv, stderr in _calls(result):
        words.update(word for word in argv if len(word) > 5 and re.search(r"[0-9/]", word))
        told = telling(stderr)
        if told and told in message:
            message = told
    return normal(message, words)


def telling(stderr: str) -> str:
    """The line of what a program printed that says why it failed: its panic, else the last that is not indented."""
    lines = [line.rstrip() for line in stderr.splitlines() if line.strip()]
    panic = next((line for line in lines if _PANIC.search(line)), None)
    return panic or next((line for line in reversed(lines) if not line[0].isspace()), lines[-1] if lines else "")


_PANIC = re.compile(
    r"^(?:panic: |fatal error: |thread '.{1,60}' (?:\(\d+\) )?panicked )|error while loading shared lib"
)
_DIFFERS = re.compile(
    "|".join(
        (
            r"(?<![\w/.…~])(?:\.{0,2}|~)/[^\s'\"`,;:()\[\]{}=]*[^\s'\"`,;:()\[\]{}=.]",  # a path
            r"\b[0-9]{1,9}(?:\.[0-9]{1,9})? ?(?:ns|us|µs|ms|s)\b",  # how long it took
            r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b",  # an id
            r"\b(?=[\w.-]{0,200}[0-9])\w{1,99}(?:[-_.]\w{1,99}){2,20}",  # a made-up name: labkit-1f2-kill-3
            r"\b[0-9]{4,}\b",
        )
    )
)


def normal(text: str, words: Iterable[str] = ()) -> str:
    """The text on one line, without paths, ids, times and these words, so that it is the same wherever it is about the
    same. What is normal stays as it is.
    """
    text = text[:_LOOKED_AT]
    for word in sorted(words, key=lambda word: (-len(word), word)):
        text = text.replace(word, _SOMETHING)
    text = _DIFFERS.sub(_SOMETHING, lasting(text))
    return one_line(re.sub(rf"{_SOMETHING}(?:[\w/.-]*{_SOMETHING})+", _SOMETHING, " ".join(text.split())), _LONGEST)


def _texts(result: Result) -> Iterator[str]:
    """What a result says about why it is bad, the best first."""
    failures = result.diagnostic.get("failures")
    for failure in failures if isinstance(failures, list) else ():
        if isinstance(failure, dict) and isinstance(failure.get("actual"), str) and failure.get("expected") == 0:
            yield f"{failure.get('what', '')}: {failure['actual']}"  # a call that failed
        break
    for key in ("message", "violation", "reason", "text"):
        if isinstance(text := result.diagnostic.get(key), str) and text.strip():
            yield text


def _calls(result: Result) -> Iterator[tuple[list[str], str]]:
    """The calls of the runtime that failed: their words, and what they printed on stderr."""
    calls = result.diagnostic.get("commands")
    for call in calls if isinstance(calls, list) else ():
        if not isinstance(call, dict):
            continue
        argv, stderr = call.get("argv"), call.get("stderr")
        if isinstance(argv, list) and isinstance(stderr, str):
            yield [str(word) for word in argv], stderr[:_LOOKED_AT] if call.get("status") != 0 else ""
