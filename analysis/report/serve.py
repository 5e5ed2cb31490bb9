"""A study's page on loopback, made anew from the run folders whenever it is asked for and something has changed."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from analysis.load import LiveStudy
from analysis.report.report import live_page
from analysis.study import Study
from roadmap.config.errors import RoadmapError
from roadmap.runs.metric import TOP1, Metric

HOST = "127.0.0.1"


class Pages:
    """The newest page of a study; two readers at once wait for one making."""

    def __init__(self, source: Path, refresh: int, metric: Metric = TOP1) -> None:
        self.refresh, self.metric = refresh, metric
        self._live = LiveStudy(source, curves=True)
        self._shown: Study | None = None
        self._looked, self._content = -float("inf"), b""
        self._lock = threading.Lock()

    def newest(self) -> bytes:
        """The page, at most `refresh` seconds old."""
        with self._lock:
            if time.monotonic() - self._looked >= self.refresh:
                study = self._live.now()
                if study is not self._shown:
                    self._content = live_page(study, self.refresh, self.metric).encode()
                    self._shown = study
                self._looked = time.monotonic()
            return self._content


def server(source: Path, *, port: int, refresh: int, metric: Metric = TOP1) -> ThreadingHTTPServer:
    """A server of one page, on loopback only. Raises RoadmapError for a port that is taken."""
    pages = Pages(source, refresh, metric)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of another site must not read this one under a name that it has pointed at loopback.
            host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
            if host not in (HOST, "localhost"):
                self.send_error(403, "only as localhost or 127.0.0.1")
            elif self.path == "/favicon.ico":  # browsers ask for one, and would note a 404 as the page's error
                self.send_response(204)
                self.end_headers()
            elif self.path.split("?")[0] not in ("/", "/report.html"):
                self.send_error(404, "only the report is served")
            else:
                self._answer()

        def _answer(self) -> None:
            try:
                content = pages.newest()
            except RoadmapError as e:
                self.send_error(503, "the study cannot be read now", str(e))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """No line for each request: the terminal shows the address."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as e:  # OverflowError: no port has that number
        raise RoadmapError(
            f"report.port {port} cannot be used: {getattr(e, 'strerror', None) or e}; legal: a free port from "
            "1024, or 0 for any; choose another --port"
        ) from e
