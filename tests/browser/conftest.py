"""A headless Chromium and the pages it opens.

Debian's packages `chromium` and `chromium-driver` provide it; without them the tests here are
skipped and say so.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.page_samples import ATTRIBUTION, Sample, hostile_sample, sample


@dataclass(frozen=True)
class Browser:
    """One window; `open` shows a file with the given width, colour scheme and medium."""

    driver: Any

    def open(
        self,
        path: Path | str,
        width: int = 1280,
        scheme: str = "light",
        medium: str = "screen",
        *,
        scripts: bool = True,
    ) -> None:
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.command(
            "Emulation.setEmulatedMedia", media=medium, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path if isinstance(path, str) else path.as_uri())

    def command(self, name: str, **values: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, values)

    def ask(self, script: str, *values: Any) -> Any:
        """The value of a JavaScript expression."""
        return self.driver.execute_script(f"return {script}", *values)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver_binary = shutil.which("chromedriver")
    if not binary or not driver_binary:
        pytest.skip("no Chromium on this machine: apt-get install chromium chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium drives the browser: pip install '.[dev]'")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_binary))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with everything in it: failed, diverged and missing runs, curves, an attribution."""
    return _write(tmp_path_factory, sample().page(ATTRIBUTION))


@pytest.fixture(scope="session")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study that holds markup wherever it may hold text."""
    return _write(tmp_path_factory, hostile_sample().page(ATTRIBUTION))


@pytest.fixture
def live_report() -> Callable[..., str]:
    """Makes the page as a server would send it, with the given question."""

    def make(question: str) -> str:
        found = sample()
        return Sample(replace(found.study, question=question), found.analysis).page(refresh=1)

    return make


def _write(factory: pytest.TempPathFactory, html: str) -> Path:
    path = factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path
