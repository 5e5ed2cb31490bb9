"""report --serve: the page on loopback, made anew while runs go on."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.load import RECORDS, LiveStudy, gather, to_lines
from analysis.report.serve import HOST, Pages, server
from analysis.study import Study
from roadmap.config.errors import RoadmapError
from roadmap.runs.folder import RunFolder
from roadmap.runs.metric import Metric
from tests.helpers.small_studies import small_study
from tests.helpers.study_files import make_record, make_trial

ROOT = Path(__file__).parents[2]
Command = Callable[..., Any]


@contextlib.contextmanager
def serving(folder: Path, refresh: int = 1) -> Iterator[int]:
    """A server in this process; gives its port."""
    with server(folder, port=0, refresh=refresh) as pages:
        thread = threading.Thread(target=pages.serve_forever)
        thread.start()
        try:
            yield pages.server_address[1]
        finally:
            pages.shutdown()
            thread.join()


def fetch(port: int, path: str = "/", host: str | None = None) -> tuple[int, str, str]:
    """(status, body, headers) of one request over loopback."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    connection.request("GET", path, headers={"Host": host if host is not None else f"{HOST}:{port}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, str(answer.headers)


@pytest.mark.slow
def test_a_served_page_shows_a_record_that_has_changed(tmp_path: Path) -> None:
    """Through the real command: started on a free port, read, changed, read again, ended by Ctrl-C."""
    folder = small_study(tmp_path)
    words = ["report", "small", "--serve", "--port", "0", "--every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "roadmap", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A suite started in the background ignores Ctrl-C, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+)/ shows small", line)
        assert found, (line, process.poll())
        port = int(found[1])
        status, before, headers = fetch(port)
        assert status == 200 and "84.00" in before and "63.21" not in before
        assert 'data-refresh="1"' in before and "no-store" in headers and "text/html; charset=utf-8" in headers
        for seed in range(3):
            trial = make_trial("gelu", seed)
            RunFolder(folder / trial.id).write_record(make_record(trial, top1=63.21))
        time.sleep(1.2)
        assert "63.21" in fetch(port, "/report.html?x=1")[1]
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err
    assert not (folder / "report").exists(), "serving writes nothing"


def test_the_page_is_made_once_within_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(study: Study, refresh: int, metric: Metric) -> str:
        made.append(1)
        return f"page {len(made)}"

    monkeypatch.setattr("analysis.report.serve.live_page", make)
    with serving(small_study(tmp_path), refresh=600) as port:
        assert [fetch(port)[1] for _ in range(3)] == ["page 1"] * 3


def test_the_page_is_made_again_where_a_record_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Study] = []

    def make(study: Study, refresh: int, metric: Metric) -> str:
        made.append(study)
        return "the page"

    monkeypatch.setattr("analysis.report.serve.live_page", make)
    folder = small_study(tmp_path)
    pages = Pages(folder, refresh=0)
    for _ in range(3):
        pages.newest()
    assert len(made) == 1
    trial = make_trial("gelu", 0)
    RunFolder(folder / trial.id).write_record(make_record(trial, top1=63.21))
    pages.newest()
    assert [run.record.metrics["top1"] for run in made[-1].runs if run.id == trial.id] == [63.21]


def test_committed_results_are_looked_at_again_too(tmp_path: Path) -> None:
    lines = to_lines(gather(small_study(tmp_path)))
    live = LiveStudy(tmp_path)
    (tmp_path / RECORDS).write_bytes(lines)
    assert live.now() is live.now()
    (tmp_path / RECORDS).write_bytes(lines.replace(b"84.1", b"48.1"))
    assert 48.1 in [run.record.metrics["top1"] for run in live.now().runs]


REQUESTS = [
    ("/", "localhost:80", 200),
    ("/report.html", "127.0.0.1", 200),
    ("/?a=b", "localhost", 200),
    ("/favicon.ico", "localhost", 204),
    ("/", "evil.example", 403),
    ("/", "127.0.0.1.evil.example", 403),
    ("/", "evil.example:8765", 403),
    ("/", "", 403),
    ("/favicon.ico", "evil.example", 403),
    ("/records.jsonl", "localhost", 404),
    ("/../../etc/passwd", "localhost", 404),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("path", "host", "status"), REQUESTS)
def test_only_the_page_is_served_and_only_under_loopbacks_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, host: str, status: int
) -> None:
    monkeypatch.setattr("analysis.report.serve.live_page", lambda study, refresh, metric: "the page")
    with serving(small_study(tmp_path)) as port:
        found, body, _ = fetch(port, path, host)
    assert found == status
    assert (body == "the page") == (status == 200)


def test_a_study_that_cannot_be_read_now_is_an_answer_and_the_server_goes_on(tmp_path: Path) -> None:
    folder = small_study(tmp_path)
    content = (folder / "study.json").read_bytes()
    (folder / "study.json").write_bytes(b"{")
    with serving(folder) as port:
        status, body, _ = fetch(port)
        assert status == 503 and "study.json is damaged" in body
        (folder / "study.json").write_bytes(content)
        assert fetch(port)[0] == 200


def test_nobody_else_on_the_network_is_answered(tmp_path: Path) -> None:
    with server(tmp_path, port=0, refresh=1) as pages:
        assert pages.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken_or_none_is_refused(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        refusal = command("report", "small", "--serve", "--port", port).refusal()
    assert f"report.port {port}" in refusal.what and "--port" in refusal.advice
    refusal = command("report", "small", "--serve", "--port", "99999").refusal()
    assert "report.port 99999" in refusal.what and "1024" in refusal.legal
    with pytest.raises(RoadmapError, match=r"report\.port -1"):
        server(tmp_path, port=-1, refresh=1)
