"""A study's records, or a paper's numbers, -> tables, figures, attribution and page.

A report is built whole in memory, from one analysis, and then written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.attribution.shares import Attribution
from analysis.attribution.summary import attribute
from analysis.attribution.text import markdown
from analysis.figures.ladder import ladder_figure
from analysis.load import RECORDS, open_study, to_lines
from analysis.report import latex, tables
from analysis.report.caption import Caption, measured_caption, paper_caption
from analysis.report.compare import compare_page
from analysis.report.drawings import figure_files
from analysis.report.page import Content, page
from analysis.report.view import views
from analysis.results.analyse import analyse
from analysis.results.frames import results_frame
from analysis.results.paper import paper_analysis
from analysis.results.results import Analysis
from analysis.study import CellId, Kind, Study
from roadmap.config.errors import RoadmapError, nearest
from roadmap.ladder import DEFAULT, find_ladder
from roadmap.runs.io import write_bytes
from roadmap.runs.metric import TOP1, Metric

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Report:
    """An analysis with its caption, and the files that show it.

    {name: content}, in the order in which they are written.
    """

    analysis: Analysis
    caption: Caption
    frame: pd.DataFrame
    files: Mapping[str, bytes]

    def write(self, out: Path) -> list[Path]:
        """Write all files into a folder. Raises RoadmapError where it cannot be made."""
        make_folder(out)
        return [_write(out / name, content) for name, content in self.files.items()]


def study_report(study: Study, metric: Metric = TOP1, regime: str = "") -> Report:
    """Analyse one regime of a study and write all files of its report in memory."""
    content = _content(study, metric, regime)
    analysis, caption = content.analysis, content.caption
    files = {RECORDS: to_lines(study), **_tables(content.frame, metric, caption)}
    files |= {"ladder.png": content.ladder.png(), "ladder.svg": content.ladder.svg().encode()}
    if content.attribution:
        files["attribution.md"] = markdown(content.attribution).encode()
    drawn = figure_files(study, analysis, content.views, content.attribution)
    files |= {name: svg.encode() for name, svg in drawn.items()}
    files["report.html"] = page(content).encode()
    return Report(analysis=analysis, caption=caption, frame=content.frame, files=files)


def _content(study: Study, metric: Metric, regime: str = "") -> Content:
    analysis = analyse(study, metric, regime)
    caption = measured_caption(study, analysis)
    return Content(
        study=study,
        analysis=analysis,
        caption=caption,
        frame=results_frame(analysis.results),
        views=views(study, analysis),
        ladder=ladder_figure(analysis, title=caption.title, subtitle=caption.short),
        attribution=attribution_of(study, metric),
    )


def report_study(source: Path, out: Path, regime: str = "", metric: Metric = TOP1) -> list[Path]:
    """Write a study's report into `out`, from its run folders or from committed results."""
    return study_report(open_study(source, curves=True), metric, regime).write(out)


def attribution_of(study: Study, metric: Metric = TOP1) -> Attribution | None:
    """Attribute the gain of a design whose cells are a lattice, once both of its ends are trained.

    From this study's records alone, so that the same records give the same bytes.
    """
    if study.design not in ("ladder", "factorial") or len(_trained_ends(study, metric)) < 2:
        return None
    found = attribute(study, metric=metric)
    return found if found.gain else None


def _trained_ends(study: Study, metric: Metric) -> set[CellId]:
    """The cells that steps and changes compare, of those with a finished run that says its settings."""
    steps = [c for c in study.comparisons if c.kind in (Kind.STEP, Kind.CHANGE)]
    ends = {end for c in steps for end in (c.child, c.parent)}
    trained = {run.cell.id for run in study.runs if run.finished(metric) and run.record.resolved is not None}
    return ends & trained


def live_page(study: Study, refresh: int, metric: Metric = TOP1) -> str:
    """The page of a study, which fetches itself again every `refresh` seconds; nothing is written."""
    return page(_content(study, metric), refresh=refresh)


def compare_studies(a: Path, b: Path, out: Path, metric: Metric = TOP1) -> Path:
    """Two studies side by side on one page, written into `out` as A-and-B.html.

    Raises RoadmapError where they have no row in common.
    """
    first, second = open_study(a), open_study(b)
    content = compare_page((first, analyse(first, metric)), (second, analyse(second, metric)))
    make_folder(out)
    return _write(out / f"{a.name}-and-{b.name}.html", content.encode())


# A paper's own ladder ----------------------------------------------------------------------------


def paper_report(regime: str, reference: Path, ladder: str = DEFAULT) -> Report:
    """Show a paper's own ladder from `reference`/ladder-<regime>.csv. Raises RoadmapError where there is none."""
    files = reference_files(reference)
    if find_ladder(ladder).find_regime(regime).name not in files:
        legal = ", ".join(files) or f"none, {reference} holds no ladder-<regime>.csv"
        raise RoadmapError(
            f"report.regime is {regime!r}, for which there are no paper's numbers in {reference}; "
            f"legal: {legal}; {nearest(regime, files)}"
        )
    analysis = paper_analysis(ladder, regime, files[regime])
    caption, frame = paper_caption(analysis), results_frame(analysis.results)
    figure = ladder_figure(analysis, title=caption.title, subtitle=caption.short)
    drawn = {"ladder.png": figure.png(), "ladder.svg": figure.svg().encode()}
    content = {**_tables(frame, analysis.metric, caption), **drawn}
    return Report(analysis=analysis, caption=caption, frame=frame, files=content)


def report_paper(regime: str, reference: Path, out: Path, ladder: str = DEFAULT) -> list[Path]:
    """Write a paper's own ladder into `out`."""
    return paper_report(regime, reference, ladder).write(out)


def reference_files(folder: Path) -> Mapping[str, Path]:
    """The ladder-<regime>.csv of a folder by regime."""
    return {path.stem.removeprefix("ladder-"): path for path in sorted(folder.glob("ladder-*.csv"))}


def _tables(frame: pd.DataFrame, metric: Metric, caption: Caption) -> dict[str, bytes]:
    return {
        "table.md": tables.markdown(frame, metric, caption).encode(),
        "table.csv": tables.csv(frame, metric).encode(),
        "table.tex": latex.latex(frame, metric, caption).encode(),
    }


def _write(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path


def make_folder(out: Path) -> None:
    """Make the folder of a report. Raises RoadmapError where it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RoadmapError(
            f"report.out {out} cannot be made: {e.strerror}; legal: a writable folder; choose another with --out"
        ) from e
