"""What all figures share: colours, sizes, the canvas, and the ways out of it. No pyplot, so no global state.

The same figure gives the same bytes: no dates, fixed ids.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SMALL, NORMAL, LARGE = 7.0, 7.5, 9.0  # points at the printed width: no letter is smaller than 7
LETTER = 0.062  # width of an average letter at 7.5 points, in inches
DPI = 300

# Okabe and Ito's blue and its tints: told apart by colour-blind eyes and by their lightness alone.
BAR, TINT, INK, QUIET, BAND = "#2b6c99", "#cfe3f1", "#1a1a1a", "#595959", "#f1f1f1"
MIDDLE = "#8fb8d4"  # a step whose change is not resolved: lighter than a resolved one, and hatched
# Told apart by colour-blind eyes (Okabe and Ito's blue, vermilion and green) and, drawn with DASHES, in grey.
SERIES = ("#0072b2", "#c04f00", "#007a59", "#7a4fa3")
DASHES = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
RULE, PALE, ALARM = "#bdbdbd", "#b0b0b0", "#b3261e"

Look = dict[str, Any]  # keywords of matplotlib

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: searchable, and set in the document's fonts
    "svg.hashsalt": "convnext-roadmap",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
    "text.parse_math": False,  # names and messages may hold a $
    "hatch.linewidth": 0.6,
    "axes.linewidth": 0.6,
}


class StyledFigure(Figure):  # type: ignore[misc, unused-ignore]
    """A figure that is drawn and saved in our style wherever it is shown; a notebook shows it by itself."""

    def __init__(self, width: float, height: float) -> None:
        """Make an empty figure of this size in inches."""
        super().__init__(figsize=(width, height))
        FigureCanvasAgg(self)

    def png(self) -> bytes:
        """Return the content of a PNG file."""
        return self._content("png", {"Software": None})

    def svg(self) -> str:
        """Return the content of an SVG file."""
        return self._content("svg", {"Date": None, "Creator": None}).decode()

    def _content(self, kind: str, metadata: dict[str, None]) -> bytes:
        content = io.BytesIO()
        with styled():
            self.savefig(content, format=kind, dpi=DPI, metadata=metadata)
        return content.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


@contextmanager
def styled() -> Iterator[None]:
    """Draw in our style, whatever the user's is."""
    with matplotlib.rc_context(STYLE):
        yield
