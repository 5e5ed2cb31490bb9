from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from analysis.report.compare import compare_page
from tests.helpers.page_samples import sample

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.slow

COLUMN = (
    """[...document.querySelectorAll('#ladder-table tbody tr')].map(row => row.cells[arguments[0]].dataset.value)"""
)
HEADINGS = """[...document.querySelectorAll('#ladder-table thead th')].map(head => head.textContent)"""


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compare") / "compare.html"
    a, b = sample(), sample(epochs=32)
    path.write_text(compare_page((a.study, a.analysis), (b.study, b.analysis)), encoding="utf-8")
    return path


@pytest.fixture(params=["report", "comparison"])
def any_page(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def requests(browser: Browser) -> list[str]:
    """Addresses that the page asked for, other than its own file and what it holds itself."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith(("file:", "data:", "about:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_opens_without_an_error_and_asks_for_nothing(scheme: str, any_page: Path, browser: Browser) -> None:
    browser.open(any_page, scheme=scheme)
    browser.ask("document.getElementById('open-all').click()")
    assert browser.driver.get_log("browser") == []
    assert requests(browser) == []
    assert browser.ask("document.title")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_never_wider_than_the_screen(width: int, any_page: Path, browser: Browser) -> None:
    browser.open(any_page, width)
    browser.ask("document.getElementById('open-all').click()")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    wide = browser.ask(
        """[...document.querySelectorAll('main *')]
        .filter(e => !e.closest('.scroll') && !e.closest('svg'))
        .filter(e => e.getBoundingClientRect().right > arguments[0] + 1)
        .map(e => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert wide == []


@pytest.mark.parametrize(
    ("name", "scheme", "medium"),
    [
        ("report", "light", "screen"),
        ("report", "dark", "screen"),
        ("report", "light", "print"),
        ("comparison", "light", "screen"),
    ],
)
def test_a_page_has_no_serious_fault_of_accessibility(
    name: str, scheme: str, medium: str, request: pytest.FixtureRequest, browser: Browser
) -> None:
    any_page = request.getfixturevalue(name)
    axe = pytest.importorskip("axe_core_python", reason="axe checks accessibility: pip install '.[dev]'")
    browser.open(any_page, 390 if medium == "screen" else 1100, scheme, medium)
    browser.ask("document.getElementById('open-all').click()")
    browser.driver.execute_script((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    browser.driver.set_script_timeout(60)
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(done, e => "
        "done({violations: [{id: String(e), impact: 'critical', nodes: []}]}))"
    )
    serious = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert serious == []
    assert len(found["passes"]) > 15, "axe looked at the page"


def shown(browser: Browser, heading: str) -> list[float | None]:
    """The values of a column, in the order shown."""
    texts = browser.ask(COLUMN, browser.ask(HEADINGS).index(heading))
    return [None if text == "" else float(text) for text in texts]


def is_sorted(values: list[float | None], *, falling: bool = False) -> bool:
    known = [v for v in values if v is not None]
    return known == sorted(known, reverse=falling) and values == [*known, *[None] * (len(values) - len(known))]


def test_the_table_sorts_numbers_by_click_with_the_unknown_last(report: Path, browser: Browser) -> None:
    browser.open(report)
    planned = shown(browser, "change [95 %]")
    assert None in planned and not is_sorted(planned)
    column = browser.ask(HEADINGS).index("change [95 %]")
    head = f"document.querySelectorAll('#ladder-table thead th')[{column}]"
    for state in ("ascending", "descending", None):
        browser.driver.find_element("id", f"ladder-table-sort-{column}").click()
        assert browser.ask(f"{head}.getAttribute('aria-sort')") == state
        values = shown(browser, "change [95 %]")
        assert values == planned if state is None else is_sorted(values, falling=state == "descending"), state
        assert sorted(map(str, values)) == sorted(map(str, planned))


def test_the_table_sorts_by_keyboard_alone(report: Path, browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(report)
    for _ in range(80):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        if browser.ask("document.activeElement.textContent") == "top-1 (%)":
            break
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus shows"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert is_sorted(shown(browser, "top-1 (%)"))
    ActionChains(browser.driver).send_keys(Keys.SPACE).perform()
    assert is_sorted(shown(browser, "top-1 (%)"), falling=True)


def test_the_skip_link_is_the_first_stop_and_leads_to_the_report(report: Path, browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.open(report)
    ActionChains(browser.driver).send_keys(Keys.TAB).perform()
    assert browser.ask("document.activeElement.className") == "skip"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert browser.ask("document.activeElement.id") == "main"


def test_a_rows_link_opens_the_runs_behind_it(report: Path, browser: Browser) -> None:
    browser.open(report)
    browser.ask("document.querySelector('#ladder-table tbody th a').click()")
    key = browser.ask("document.querySelector('#ladder-table tbody th a').hash.slice(1)")
    deadline = time.monotonic() + 5
    while (
        not browser.ask("document.getElementById(arguments[0]).closest('details').open", key)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert "baseline-seed0" in browser.ask("document.getElementById(arguments[0]).innerText", key)


def test_without_scripts_the_page_is_complete(report: Path, browser: Browser) -> None:
    browser.open(report, scripts=False)
    document = browser.command("DOM.getDocument", depth=-1)
    html = browser.command("DOM.getOuterHTML", nodeId=document["root"]["nodeId"])["outerHTML"]
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert html.count("<svg xmlns") >= 1 + 3 + 14 + 1 and "39 of 42 runs finished" in html and "<button" not in html
    assert html.count("<details") >= 14 and html.count('aria-label="Runs of') >= 14


def test_print_shows_what_is_folded_and_cuts_nothing(report: Path, browser: Browser) -> None:
    browser.open(report, 1032, "dark", "print")
    hidden = browser.ask(
        "[...document.querySelectorAll('details.row > div')].filter(e => e.getBoundingClientRect().height < "
        "20 || !e.checkVisibility({contentVisibilityAuto: true})).length"
    )
    assert hidden == 0
    assert browser.ask(
        "[...document.querySelectorAll('.scroll')].every(e => getComputedStyle(e).overflowX === 'visible')"
    )
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", (
        "dark paper costs ink"
    )
    assert browser.ask("document.getElementById('ladder-table').getBoundingClientRect().right") <= 1032, (
        "the width of A4 on its side, less the margins"
    )
    pdf = browser.command("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert len(pdf) > 50_000


def test_dark_mode_reaches_the_figures(report: Path, browser: Browser) -> None:
    inks = []
    for scheme in ("light", "dark"):
        browser.open(report, scheme=scheme)
        inks.append(
            browser.ask(
                "[...document.querySelectorAll('svg.figure')].map(s => getComputedStyle(s.querySelector('text')).fill)"
            )
        )
    assert len(inks[0]) > 14 and all(
        sum(map(int, re.findall(r"\d+", a))) < 300 < 500 < sum(map(int, re.findall(r"\d+", b)))
        for a, b in zip(*inks, strict=True)
    ), inks


def test_markup_in_names_stays_text(hostile_report: Path, browser: Browser) -> None:
    browser.open(hostile_report, 390)
    assert browser.ask("window.hacked") is None
    assert browser.ask("document.querySelectorAll('main script, main img, [onerror]').length") == 0
    assert browser.ask("document.getElementById('found').innerText").count("<script>window.hacked = 1</script>") >= 1
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    assert browser.driver.get_log("browser") == [] and requests(browser) == []


@contextmanager
def served(pages: list[str]) -> Iterator[str]:
    """A server that sends the last of `pages`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages[-1].encode() if self.path == "/report.html" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/report.html"
    server.shutdown()
    server.server_close()


def test_a_live_page_swaps_its_numbers_and_keeps_the_readers_place(
    live_report: Callable[..., str], browser: Browser
) -> None:
    pages = [live_report("first")]
    with served(pages) as address:
        browser.open(address)
        browser.ask("document.querySelectorAll('details.row')[3].open = true")
        column = browser.ask(HEADINGS).index("top-1 (%)")
        browser.driver.find_element("id", f"ladder-table-sort-{column}").click()
        browser.ask("scrollTo(0, 1500)")
        pages.append(live_report("second"))
        deadline = time.monotonic() + 10
        while (
            browser.ask("document.querySelector('.question').textContent") != "second" and time.monotonic() < deadline
        ):
            time.sleep(0.1)
        assert browser.ask("document.querySelector('.question').textContent") == "second"
        assert browser.ask("[...document.querySelectorAll('details.row')].map(d => d.open).indexOf(true)") == 3
        assert is_sorted(shown(browser, "top-1 (%)"))
        assert browser.ask("scrollY") == 1500
        assert browser.ask("document.activeElement.id") == f"ladder-table-sort-{column}"
        assert [e for e in browser.driver.get_log("browser") if "favicon" not in e["message"]] == []


def test_every_figure_is_one_image_with_its_numbers_in_words(report: Path, browser: Browser) -> None:
    browser.open(report)
    names = browser.ask(
        "[...document.querySelectorAll('svg.figure')].map(s => [s.getAttribute('role'), "
        "s.getAttribute('aria-label').length])"
    )
    assert names and all(role == "img" and length > 40 for role, length in names)
    assert "n = 3" in browser.ask("document.querySelector('#ladder svg').getAttribute('aria-label')")
