"""What a reader must know of the ladder's figure.

What its whiskers, hatchings and marks mean, as far as it has them.
"""

from __future__ import annotations

from collections.abc import Iterator

from analysis.figures import looks
from analysis.figures.bars import reference_in_view
from analysis.results.results import Analysis, Role
from analysis.wording import scaled
from roadmap.ladder import find_ladder

PALE_ROLES = (Role.SIDE, Role.VARIANT, Role.OTHER)


def footnotes(analysis: Analysis) -> list[str]:
    """The notes below the figure, a line each."""
    marks = list(_measured_marks(analysis) if analysis.measured else _printed_marks(analysis))
    notes = ["; ".join(marks)] if marks else []
    return [*notes, *_reference(analysis), *_quoted(analysis), *_misprints(analysis)]


def _measured_marks(analysis: Analysis) -> Iterator[str]:
    results = analysis.results
    if any(result.score.std is not None for result in results):
        yield "whiskers: one standard deviation, n − 1; circles: single seeds"
    if any(result.role in PALE_ROLES for result in results):
        yield "pale: side step, change or other training"
    if any(result.role is Role.CONTROL for result in results):
        yield "striped: control"
    if any(looks.is_open(result) and not looks.is_confounded(result) for result in results):
        yield "hatched: the change is not resolved"
    if any(looks.is_confounded(result) for result in results):
        yield "crossed, ‡: confounded, more than the declared change differs"


def _printed_marks(analysis: Analysis) -> Iterator[str]:
    if any(result.paper.std is not None for result in analysis.results):
        yield "whiskers: one standard deviation, as printed"
    if any(result.role is Role.SIDE for result in analysis.results):
        yield "hatched: side step, not adopted"
    yield "GMACs: the paper's GFLOPs, as printed"


def _reference(analysis: Analysis) -> Iterator[str]:
    """Of a dashed line among measured bars."""
    reference = reference_in_view(analysis)
    if analysis.measured and reference:
        printed = find_ladder(analysis.ladder).printed
        data = f" on {printed.data}" if printed else ""
        yield f"dashed: {reference.name}{data} as the paper prints it, not measured here"


def _quoted(analysis: Analysis) -> Iterator[str]:
    """Of a printed number that the step's recipe does not make."""
    for result in analysis.results:
        if not analysis.measured and result.paper.quoted:
            yield f"{result.step}: {result.paper.score:.2f} is {result.paper.quoted}"


def _misprints(analysis: Analysis) -> Iterator[str]:
    odd = [result for result in analysis.results if looks.is_misprinted(result)]
    if odd:
        counted = [f"{scaled(result.macs, 1e9)} ({result.step})" for result in odd]
        yield f"† counting the network gives {', '.join(counted)}"
