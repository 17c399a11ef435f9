"""How the spec suite runs a program: bounded in time and in what it prints, and told how it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.guest.spec.process import FLOOD, OUTPUT_LIMIT, Proc, run


def sh(directory: Path, script: str, timeout: float = 30) -> Proc:
    return run(["sh", "-c", script], stdout=directory / "out", stderr=directory / "err", timeout=timeout)


def test_what_is_printed_is_kept_up_to_a_limit(tmp_path: Path) -> None:
    done = sh(tmp_path, f"yes | head -c {OUTPUT_LIMIT + 5000}; echo short >&2; exit 3")
    assert (done.status, len(done.stdout), done.stderr) == (3, OUTPUT_LIMIT, "short\n")
    assert (tmp_path / "out").stat().st_size == OUTPUT_LIMIT


def test_a_program_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    done = sh(tmp_path, "exec yes >&2")
    assert done.status is None
    assert done.limit == f"ended after it had printed more than {FLOOD >> 20} MiB"
    assert done.words.startswith(done.limit)
    assert (tmp_path / "err").stat().st_size == OUTPUT_LIMIT


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exit 1", "exit status 1"),
        ("echo why >&2; exit 1", "why"),
        ("kill -SEGV $$", "killed by SIGSEGV"),
        ("echo why >&2; kill -SEGV $$", "killed by SIGSEGV: why"),
        ("exec sleep 1000", "timed out after 0.2 s"),
        ("echo busy >&2; exec sleep 1000", "timed out after 0.2 s: busy"),
    ],
)
def test_how_it_failed(tmp_path: Path, script: str, words: str) -> None:
    assert sh(tmp_path, script, 0.2 if "sleep" in script else 30).words == words
