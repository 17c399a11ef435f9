"""The pages of the history, in a real browser and as files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from labkit.core.errors import HostError
from labkit.reports import site
from labkit.store.history import FILE, History
from tests.histories import EVIL, a_past, a_run, keep, keep_night
from tests.test_reports import Page as Parsed

MADE = datetime(2026, 12, 12, 3, tzinfo=UTC)
browser_only = pytest.mark.needs("chromium")


def written(reports: Path, out: Path | None = None) -> Path:
    with History.open(reports / FILE, print) as history:
        history.sync(reports)
        return site.write(history, reports, out or reports / site.PLACE, MADE)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index.html of a rich history."""
    reports = tmp_path_factory.mktemp("past") / "reports 1"
    reports.mkdir()
    a_past(reports)
    with History.open(reports / FILE, print) as history:
        history.sync(reports)
        gone = history.runs("debian-12/uml/runc/spec")[10].name
        shutil.rmtree(reports / gone)
    return written(reports)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="not installed: playwright")
    with playwright.sync_playwright() as tool:
        # Chromium's sandbox does not run as root, nor in many containers; the pages are ours.
        browser = tool.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"], timeout=120_000)
        yield browser
        browser.close()


class Tab:
    """A page in the browser, which notes whatever a page of ours must never do."""

    def __init__(self, browser: Any, path: Path, fragment: str = "", **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri() + fragment)
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())

    def rows(self) -> list[str]:
        return list(self.page.locator(".grid tbody th").all_inner_texts())

    def row(self, label: str) -> str:
        """The letters of a row of the grid."""
        line = self.page.locator(".grid tbody tr").filter(has=self.page.locator("th", has_text=label)).first
        return "".join(letter or " " for letter in line.locator("td").all_inner_texts())


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    tabs: list[Tab] = []

    def opened(path: Path, fragment: str = "", **options: Any) -> Tab:
        tabs.append(Tab(chromium, path, fragment, **{"viewport": {"width": 1280, "height": 900}, **options}))
        return tabs[-1]

    yield opened
    for one in tabs:
        evil = one.page.evaluate("window.evil")
        one.context.close()
        assert one.wrong == []
        assert evil is None
        assert [url for url in one.requests if not url.startswith("file:")] == []


def cell_page(index: Path, key: str) -> Path:
    [found] = (index.parent / "cells").glob(f"{re.sub('[^A-Za-z0-9.-]+', '_', key)}-*.html")
    return found


# --- as files


def test_a_page_needs_nothing_from_elsewhere(past: Path) -> None:
    for file in (past, *(past.parent / "cells").iterdir()):
        source = file.read_text()
        page = Parsed(source)
        assert {tag for tag, _ in page.tags} <= {
            "html", "head", "meta", "title", "style", "body", "header", "h1", "main", "noscript", "p", "script",
        }  # fmt: skip
        for tag, attributes in page.tags:
            assert not {"src", "href", "srcset", "style"} & attributes.keys(), tag
        assert not re.search(r"url\(|@import|fetch\(|import\(|innerHTML|insertAdjacentHTML|document\.write", source)
        policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
        assert policy and policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert "onerror" not in source.replace("&", "")


def test_the_same_history_makes_the_same_pages(past: Path, tmp_path: Path) -> None:
    again = written(past.parent.parent, past.parent)
    before = {file.name: file.read_bytes() for file in again.parent.rglob("*.html")}
    written(past.parent.parent, past.parent)
    assert {file.name: file.read_bytes() for file in again.parent.rglob("*.html")} == before
    assert not list(past.parent.rglob("*.part"))


def test_no_two_cells_share_a_page(tmp_path: Path) -> None:
    keys = ["a/b", "a_b", "a//b", "../../etc/passwd", "", "ä" * 300, EVIL]
    for number, key in enumerate(keys, 1):
        keep_night(tmp_path, f"20261101.{number}", {key or " ": a_run(number, ".")})
    index = written(tmp_path)
    made = list((index.parent / "cells").iterdir())
    assert len(made) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+\.html", file.name) for file in made)


def test_where_it_cannot_be_written_that_is_said(past: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostError, match=re.escape(str(tmp_path / "file"))):
        written(past.parent.parent, tmp_path / "file")


def test_the_pages_follow_no_link(past: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "index.html").symlink_to(precious / "file")
    written(past.parent.parent, out)
    assert (precious / "file").read_text() == "precious"
    shutil.rmtree(out / "cells")
    (out / "cells").symlink_to(precious)
    with pytest.raises(HostError, match="cells is a link"):
        written(past.parent.parent, out)
    assert [file.name for file in precious.iterdir()] == ["file"]


# --- in a browser


@browser_only
def test_the_overview_shows_cells_by_nights(past: Path, tab: Any) -> None:
    page = tab(past)
    assert page.text("h1") == "History"
    assert "4 cells, 40 nights, 160 runs" in page.text("header")
    assert page.rows() == [f"debian-{release}/uml/{name}/spec" for release in (12, 13) for name in ("crun", "runc")]
    assert page.row("debian-13/uml/runc/spec")[-7:] == "fffEFEE"  # the F by hand, on the day of night 39
    assert page.row("debian-12/uml/crun/spec")[-11:] == "ffFFFFFFFF FF"[-11:]
    assert "L" in page.row("debian-12/uml/runc/spec")
    cut = page.page.locator("td.cut")
    assert cut.count() == 1
    assert cut.get_attribute("aria-label") == "fail, as the policy expects, run incomplete"


@browser_only
def test_a_night_shows_what_changed_in_it(past: Path, tab: Any) -> None:
    page = tab(past, "#night=20261209.38")
    shown = page.text("#night")
    assert "Night 20261209.38" in shown
    assert "Incomplete: interrupted" in shown
    assert re.search(
        r"new failures: 2\s+C-007 what C-007 is about \(again when run alone\)\s+debian-13/uml/runc/spec", shown
    )
    assert page.text(".tile") == "2\nnew failures"
    page.page.get_by_text("the night's own page").click()
    assert page.page.title() == "night"
    lab = tab(past, "#night=20261121.20").text("#night")
    assert "debian-13: runc 1.1.0 -> 1.1.1" in lab
    assert "<img src=x" in lab
    lost = tab(past, "#night=20261204.33").text("#night")
    assert "debian-12/uml/runc/spec: no space left" in lost
    assert "lab errors: 1" in lost


@browser_only
def test_the_head_of_a_column_picks_its_night(past: Path, tab: Any) -> None:
    page = tab(past)
    page.page.get_by_role("button", name="night 20261202.31,").click()
    assert "Night 20261202.31" in page.text("#night")
    assert page.page.url.endswith("#night=20261202.31")
    assert "<img src=x" in page.text("#night")  # the check with that name fails newly
    page.page.get_by_role("button", name="by hand on 2026-12-10").click()
    assert "By hand on 2026-12-10" in page.text("#night")


@browser_only
def test_the_cells_are_filtered(past: Path, tab: Any) -> None:
    page = tab(past)
    page.page.get_by_label("filter cells").fill("crun 13")
    assert page.rows() == ["debian-13/uml/crun/spec"]
    page.page.get_by_label("filter cells").fill("nothing like it")
    assert page.page.get_by_text("Nothing matches the filter.").is_visible()


@browser_only
def test_a_cells_page_shows_what_ever_changed(past: Path, tab: Any) -> None:
    page = tab(past)
    page.page.locator(".grid").get_by_text("debian-13/uml/runc/spec").click()
    page.ready()
    assert page.text("h1") == "debian-13/uml/runc/spec"
    assert sorted(page.rows()) == ["C-001", "C-005", "C-007", "C-008"]
    assert page.row("C-007")[-5:] == "·TTT "
    page.page.get_by_label("also what never changed").check()
    assert len(page.rows()) == 60
    assert page.row("C-000")[-3:] == "ff "
    page.page.get_by_label("state").select_option("bad against the policy")
    assert sorted(page.rows()) == ["C-001", "C-007", "C-008"]
    page.page.get_by_label("filter checks").fill("c-008")
    assert page.rows() == ["C-008"]


@browser_only
def test_a_verdict_says_since_when_and_links_its_report(past: Path, tab: Any) -> None:
    page = tab(cell_page(past, "debian-13/uml/runc/spec"), "#q=C-007")
    line = page.page.locator(".grid tbody tr").filter(has_text="C-007")
    line.locator("td").nth(-2).click()
    about = page.text("#about")
    assert "timeout" in about
    assert "bad since night 20261209.38" in about
    assert "what C-007 is about" in about
    page.page.locator("#about a").click()
    assert page.page.title() == "report"


@browser_only
def test_a_check_that_never_changed_is_found_by_its_link(past: Path, tab: Any) -> None:
    assert tab(cell_page(past, "debian-13/uml/runc/spec"), "#q=C-017").rows() == ["C-017"]


@browser_only
def test_a_report_that_is_gone_has_no_link(past: Path, tab: Any) -> None:
    page = tab(cell_page(past, "debian-12/uml/runc/spec"))
    for _ in range(3):
        page.page.get_by_role("button", name="older").click(force=True) if page.page.get_by_role(
            "button", name="older"
        ).is_enabled() else None
    page.page.get_by_role("button", name="night 20261112.11,").click()
    assert "its report is gone" in page.text("#about")
    assert page.page.locator("#about a").count() == 0


@browser_only
def test_the_keyboard_is_enough(past: Path, tab: Any) -> None:
    page = tab(cell_page(past, "debian-13/uml/runc/spec"))
    keys = page.page.keyboard
    page.page.locator("td[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowLeft", "Enter"):
        keys.press(key)
    focus = "document.activeElement.closest('tr').querySelector('th').textContent"
    assert page.page.evaluate(focus) in page.text("#about")
    assert "night 20261211.40" in page.text("#about")
    keys.press("Home")
    assert page.page.evaluate("document.activeElement.cellIndex") == 1
    keys.press("Enter")
    assert "night 20261102.1" in page.text("#about")
    keys.press("ArrowLeft")
    keys.press("ArrowUp")
    keys.press("ArrowUp")
    assert page.page.evaluate("document.activeElement.tagName") == "TD"
    keys.press("End")
    keys.press(" ")
    assert "by hand" in page.text("#about")
    reached = set()
    page.page.locator("body").click(position={"x": 1, "y": 1})
    for _ in range(60):
        keys.press("Tab")
        reached.add(page.page.evaluate("document.activeElement.tagName"))
    assert {"A", "INPUT", "SELECT", "BUTTON", "TD"} <= reached


@browser_only
def test_older_and_newer(past: Path, tab: Any) -> None:
    page = tab(past)
    range_shown = page.text(".filter output")
    assert range_shown.endswith("of 41; 4 rows")
    page.page.get_by_role("button", name="older").click()
    assert page.text(".filter output").startswith("1\N{EN DASH}")
    assert page.page.get_by_role("button", name="older").is_disabled()
    page.page.get_by_role("button", name="newer").click()
    assert page.text(".filter output") == range_shown


@browser_only
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_window_is_enough(past: Path, tab: Any, width: int) -> None:
    for file in (past, cell_page(past, "debian-12/uml/crun/spec")):
        page = tab(file, viewport={"width": width, "height": 844})
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width, file.name
        place = page.page.evaluate(
            "(() => { const s = document.querySelector('.scroll'); return s.scrollWidth - s.clientWidth })()"
        )
        assert place <= 0, file.name
        assert page.page.locator(".grid tbody tr").first.locator("td").count() >= 4


@browser_only
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(past: Path, tab: Any, scheme: str, width: int) -> None:
    """Nothing at all, contrast of every letter included: https://github.com/dequelabs/axe-core."""
    axe = pytest.importorskip("axe_playwright_python", reason="not installed: axe-playwright-python")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    for file in (past, cell_page(past, "debian-13/uml/runc/spec")):
        page = tab(file, color_scheme=scheme, viewport={"width": width, "height": 900})
        page.page.evaluate(script)
        passes, violations = page.page.evaluate(
            """axe.run(document).then((found) => [found.passes.length, found.violations.map(
                (one) => [one.id, one.impact, one.nodes.slice(0, 3).map((node) => node.html)])])"""
        )
        assert passes > 15
        assert violations == []


@browser_only
def test_verdicts_can_be_told_apart_without_colour(past: Path, tab: Any) -> None:
    """By letter; and by lightness where letters are too small to be read."""
    page = tab(past)
    letters = page.page.evaluate("[...document.querySelectorAll('.legend b')].map((b) => [b.textContent, b.className])")
    shown = [letter for letter, style in letters if "cut" not in style]
    assert len(set(shown)) == len(shown)
    luminance = """(name) => {
        const probe = document.createElement('i'); probe.className = name; document.body.append(probe);
        const [r, g, b] = getComputedStyle(probe).backgroundColor.match(/\\d+/g).map((part) => {
            const c = part / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
        probe.remove();
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; }"""
    for scheme in ("light", "dark"):
        page.page.emulate_media(color_scheme=scheme)
        good, bad = (page.page.evaluate(luminance, f"v-{name}") + 0.05 for name in ("pass", "fail"))
        assert max(good, bad) / min(good, bad) > 3, scheme


@browser_only
def test_a_page_without_runs_says_so(tmp_path: Path, tab: Any) -> None:
    (tmp_path / "reports").mkdir()
    page = tab(written(tmp_path / "reports"))
    assert "There are no runs yet" in page.text("main")


@browser_only
def test_a_run_by_hand_alone_is_a_history(tmp_path: Path, tab: Any) -> None:
    keep(tmp_path, a_run(1, ".F"))
    page = tab(written(tmp_path))
    assert page.row("debian-13/uml/runc/spec") == "F"
    assert "By hand on 2026-11-02" in page.text("#night")
    page.page.locator(".grid a").click()
    page.ready()
    assert "2 checks, of which 0 changed" in page.text("header")
    assert "Too few complete runs." in page.text("main")


@browser_only
def test_links_hold_wherever_the_pages_are(past: Path, tmp_path: Path, tab: Any) -> None:
    index = written(past.parent.parent, tmp_path / "some where" / "100% #1")
    page = tab(cell_page(index, "debian-13/uml/runc/spec"))
    page.page.locator("#about a").click()
    assert page.page.title() == "report"
    page = tab(index, "#night=20261209.38")
    page.page.get_by_text("the night's own page").click()
    assert page.page.title() == "night"


@browser_only
def test_many_runs_and_checks_are_cut_to_what_can_be_looked_at(tmp_path: Path, tab: Any) -> None:
    with History.open(tmp_path / FILE, print) as history:
        for day in range(1, 741):
            letters = {f"C-{n:03}": "F" if (day + n) % 90 == 0 else "." for n in range(130)}
            history.add(f"20261101.{day}", "a/b/c/d", a_run(day, letters))
        index = site.write(history, tmp_path, tmp_path / "site", MADE)
    page = tab(index)
    assert "The newest 730 nights are shown" in page.text("header")
    page = tab(cell_page(index, "a/b/c/d"))
    assert "The newest 730 runs are shown" in page.text("header")
    assert len(page.rows()) == 120
    page.page.get_by_role("button", name="show all 130 rows").click()
    assert len(page.rows()) == 130
