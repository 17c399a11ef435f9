"""A night's end: its page, the people it tells, and GitHub's runner."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import until
from tests.simulated import Nights, works
from tests.test_github import obeyed
from tests.test_reports import Page
from tests.test_tell import Hook, hook

pytestmark = pytest.mark.skipif(not works(), reason="setpriv has no --pdeathsig here")


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    made = Nights(tmp_path)
    yield made
    made.end()


@pytest.fixture
def there(nights: Nights) -> Iterator[Hook]:
    """A webhook that the nights tell."""
    with hook(200) as about:
        settings = nights.place / "work" / "labkit.toml"
        settings.write_text(f'{settings.read_text()}\n[tell]\nwebhook = "http://127.0.0.1:{about.port}/hook"\n')
        yield about


def night(nights: Nights, *words: str, status: int = 0) -> None:
    assert nights.wait(nights.start(*words)) == status, nights.err


def texts(there: Hook) -> list[str]:
    return [str(body["text"]) for body in there.bodies]


def test_people_are_told_what_changed_and_nothing_else(nights: Nights, there: Hook) -> None:
    night(nights)
    assert there.bodies == []
    nights.does("r1", "show bad")
    nights.does("r2", "show bad")
    night(nights, status=1)
    [text] = texts(there)
    first, second = text.splitlines()[:2]
    assert first.startswith("labkit: 1 new failure (night ")
    assert second.startswith("Look at the lab or the suite, for other runtimes fail it too: 1 new failure (A-002 in ")
    assert text.count("in debian-13/uml//sim/r1/spec, debian-13/uml//sim/r2/spec\n") == 1
    assert "webhook: told: labkit: 1 new failure" in nights.err
    night(nights, status=1)
    assert len(there.bodies) == 1
    nights.does("r1", "show good")
    night(nights, status=1)
    assert "labkit: 1 fixed" in texts(there)[1] and len(there.bodies) == 2


def test_a_night_has_a_page_that_leads_to_its_runs(nights: Nights) -> None:
    nights.does("r1", "show bad")
    nights.does("r2", 'lab "no disk"')
    night(nights, status=1)
    [place] = (nights.reports / "nights").iterdir()
    page = Page((place / "index.html").read_text())
    links = [str(a["href"]) for a in page.named("a")]
    assert len(links) == 2 and all((place / link).resolve().is_file() for link in links)
    assert "Repair the lab" in page.text or "repair the lab" in page.text
    assert "no disk" in page.text


def test_a_webhook_that_is_down_loses_nothing(nights: Nights, there: Hook) -> None:
    there.status = [404]
    nights.does("r1", "show bad")
    night(nights, status=1)
    assert "webhook: not told: webhook http://127.0.0.1:" in nights.err and "404 Not Found" in nights.err
    there.status = [200]
    night(nights, status=1)
    assert "could not be told before:\n  labkit: 1 new failure" in texts(there)[-1]


def test_a_secret_that_is_not_kept_is_told_before_the_night(nights: Nights) -> None:
    settings = nights.place / "work" / "labkit.toml"
    settings.write_text(
        f'{settings.read_text()}\n[tell]\nwebhook = "https://hooks.example.org/x/AAAABBBBCCCCDDDDEEEE1"\n'
    )
    settings.chmod(0o644)
    night(nights, status=2)
    assert "tell.webhook holds a secret" in nights.err and "AAAABBBB" not in nights.err + nights.out
    assert not nights.reports.exists()


def test_who_stops_a_night_is_not_told_and_everybody_is_when_it_has_ended(nights: Nights, there: Hook) -> None:
    nights.does("r1", "show bad")
    nights.does("r3.1", "never")
    pid = nights.start()
    until(lambda: nights.ran("r3") and "r1/spec" in nights.err, 60)
    os.kill(pid, signal.SIGTERM)
    assert nights.wait(pid) == 128 + signal.SIGTERM
    assert there.bodies == []
    [place] = [path for path in (nights.reports / "nights").iterdir() if path.is_dir()]
    assert "Incomplete night" in Page((place / "index.html").read_text()).text
    night(nights, "--resume", status=1)
    [text] = texts(there)
    assert text.startswith("labkit: 1 new failure")


def test_a_night_as_a_step_of_github(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = nights.place / "summary.md"
    environ = nights.environ
    monkeypatch.setattr(nights, "environ", lambda: {**environ(), "GITHUB_STEP_SUMMARY": str(summary)})
    nights.does("r1", "show bad")
    nights.does("r2", r'lab "::error::forged ##[error]forged"')
    night(nights, "--format", "github", status=1)
    found = obeyed(nights.out)
    assert nights.err == "" and [name for name, *_ in found] == ["error"] * 3
    titles = [title.partition(" (night")[0] for _, title, _ in found]
    assert titles == ["night", "new failures: A-002", "lab errors: debian-13/uml//sim/r2/spec"]
    assert summary.read_text().startswith("## Night `")
    assert "3 cells in " in nights.out
