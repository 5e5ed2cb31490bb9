"""A template filled in, with the page's style, scripts and policy.

The policy forbids any script but the page's own, whose digests it states, and any request at all; a
live page may ask its own server.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, *, refresh: int | None = None, **values: Any) -> str:
    """Fill in a template; `refresh`: every how many seconds the page fetches itself."""
    names = ["page.js", "live.js"] if refresh else ["page.js"]
    scripts = [_source(name) for name in names]
    return (
        _environment()
        .get_template(template)
        .render(
            style=_source("page.css"),
            scripts=scripts,
            policy=_policy(scripts, live=bool(refresh)),
            refresh=refresh,
            **values,
        )
    )


def _policy(scripts: Sequence[str], *, live: bool) -> str:
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    nothing = "default-src 'none'; base-uri 'none'; form-action 'none'"
    connect = "; connect-src 'self'" if live else ""
    return f"{nothing}; style-src 'unsafe-inline'; img-src data:; script-src {digests}{connect}"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("analysis.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@functools.cache
def _source(name: str) -> str:
    return files("analysis.report").joinpath("templates", name).read_text(encoding="utf-8")
