"""An SVG as a part of an HTML page, which follows the page's colours."""

from __future__ import annotations

import re
from html import escape

from analysis.figures.style import ALARM, BAND, BAR, INK, MIDDLE, PALE, QUIET, RULE, SERIES, TINT

# The figures' colours by the page's CSS property; the drawn colour is the fallback, so that a copied
# figure still looks right.
THEME = {
    "#ffffff": "paper",
    "#000000": "ink",
    INK: "ink",
    QUIET: "quiet",
    BAND: "band",
    BAR: "bar",
    TINT: "tint",
    MIDDLE: "middle",
    RULE: "rule",
    PALE: "pale",
    ALARM: "alarm",
    **{colour: f"series-{i}" for i, colour in enumerate(SERIES)},
}

_PROLOG = re.compile(r"^.*?(?=<svg\b)", re.DOTALL)
_METADATA = re.compile(r"<metadata>.*?</metadata>|<style type=\"text/css\">.*?</style>", re.DOTALL)
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')
_PATH = re.compile(r'(?<= d=")[^"]*(?=")')
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile(r"(?<=: )#[0-9a-f]{6}\b")
_FILL = re.compile(r' fill="(#[0-9a-f]{6})"')
_OPEN = re.compile(r"<svg\b[^>]*>")
_VIEW = re.compile(r'viewBox="([^"]*)"')


def inline(svg: str, prefix: str, alt: str) -> str:
    """Return the SVG as an element of an HTML page.

    One image with a text alternative, ids of its own, colours of the page, short numbers.
    `prefix` must be unique on the page. Markup in names is already escaped by matplotlib; `alt` is escaped here.
    """
    body = _METADATA.sub("", _PROLOG.sub("", svg, count=1))
    body = _REFERENCE.sub(rf"\g<1>{prefix}-", body)
    body = _PATH.sub(lambda path: " ".join(_DECIMALS.sub(_short, path[0]).split()), body)
    body = _FILL.sub(r' style="fill: \1"', body)  # var() stands in a style, not in an attribute
    body = _COLOUR.sub(_themed, body)
    view = _VIEW.search(body)
    box = view[1] if view else "0 0 100 100"
    width = float(box.split()[2])
    link = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = f'viewBox="{box}" width="{width * 4 / 3:.0f}"'
    opening = f'<svg {link} class="figure" role="img" aria-label="{escape(alt)}" {size}>'
    opened = _OPEN.sub(lambda _: opening, body, count=1)
    return "\n".join(filter(None, map(str.strip, opened.splitlines())))


def _short(number: re.Match[str]) -> str:
    """Two decimals of a point: a hundredth of a pixel."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _themed(colour: re.Match[str]) -> str:
    name = THEME.get(colour[0])
    return f"var(--fig-{name},{colour[0]})" if name else colour[0]
