from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.core.text import one_line, printable, seconds, truncate

# Time on a busy machine is not what these tests are about.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

any_text = st.text(st.characters(exclude_categories=()))  # lone surrogates included


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("runc 1.1.5 · ünïcödé 容器", "runc 1.1.5 · ünïcödé 容器"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("user\u202etxt.exe", r"user\u202etxt.exe"),
        ("a\ud800b", r"a\ud800b"),
        ("progress\rdone", r"progress\rdone"),
        ("two\nlines", r"two\nlines"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
    ],
)
def test_what_could_act_on_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_line_feeds_and_tabs_can_stay() -> None:
    assert printable("a\n\tb\r\n\x1b", newlines=True) == "a\n\tb\\r\n\\x1b"


@patient
@given(any_text)
def test_printable_text_is_printable_and_can_be_encoded(text: str) -> None:
    assert printable(text).isprintable()
    printable(text, newlines=True).encode()


@patient
@given(any_text, st.integers(1, 50))
def test_one_line_never_exceeds_its_limit(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit and line.isprintable()


def test_truncate_says_how_much_is_missing() -> None:
    assert truncate("abc", 3) == "abc"
    assert truncate("a" * 10, 4) == "aaaa… (6 more characters)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (24.9999, "25 s"),
        (7200, "7200 s"),
        (9.99, "10 s"),
        (2.5, "2.5 s"),
        (1.0, "1 s"),
        (0.5, "0.5 s"),
        (0.05, "0.05 s"),
    ],
)
def test_a_time_is_shown_as_it_was_set(value: float, shown: str) -> None:
    assert seconds(value) == shown
