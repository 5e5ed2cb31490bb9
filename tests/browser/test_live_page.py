"""The page that `roadmap report --serve` sends, open in a real browser while a run ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from analysis.report.serve import HOST, server
from roadmap.config.trial import Trial
from roadmap.runs.folder import RunFolder
from tests.helpers.study_files import make_record, make_trial, write_runs

if TYPE_CHECKING:
    from conftest import Browser

pytestmark = pytest.mark.slow

STEPS = ("move-up-depthwise", "kernel-7")


def test_an_open_page_shows_a_run_that_ends_without_being_touched(browser: Browser, tmp_path: Path) -> None:
    trials = [make_trial(step, seed) for step in STEPS for seed in range(2)]

    def values(trial: Trial) -> dict[str, object] | None:
        return {"top1": 80.0 + trial.seed} if trial.step == STEPS[0] else None

    folder = write_runs(tmp_path / "runs", trials, values, name="live")
    text = "document.querySelector('main').textContent"
    with server(folder, port=0, refresh=1) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        try:
            browser.open(f"http://{HOST}:{pages.server_address[1]}/")
            assert "80.50" in browser.ask(text) and "87.65" not in browser.ask(text)
            browser.ask("window.untouched = true")
            for trial in trials[2:]:
                run = RunFolder(folder / trial.id)
                run.prepare(trial)
                run.write_record(make_record(trial, top1=87.65))
            deadline = time.monotonic() + 30
            while "87.65" not in browser.ask(text) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert "87.65" in browser.ask(text)
            assert browser.ask("window.untouched") is True, "the page was loaded again instead of swapping its content"
            assert browser.driver.get_log("browser") == []
        finally:
            browser.open("about:blank")
            pages.shutdown()
            thread.join()
