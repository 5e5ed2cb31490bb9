"""`roadmap report`: a study's records, or a paper's numbers, -> results/<study>/ with tables and figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis import tables
from analysis.caption import Caption, measured_caption, paper_caption
from analysis.figures import ladder_figure
from analysis.gather import RECORDS, Study, open_study, to_lines
from analysis.rows import Row, paper_rows, rows
from roadmap.record import write_bytes
from roadmap.rules import RoadmapError, nearest
from roadmap.steps import find_regime


def report_study(source: Path, out: Path, regime: str = "") -> list[Path]:
    """Write all files of results/<study>/ into `out` from run folders (runs/<study>) or from committed results (results/<study>)."""
    study = open_study(source)
    found, caption = study_table(study, regime)
    _folder(out)
    paths = [_write(out / RECORDS, to_lines(study)), *_write_tables(out, found, caption)]
    return paths + ladder_figure(found, find_regime(regime or study.regime), out, "measured", title=caption.title, subtitle=caption.short)


def study_table(study: Study, regime: str = "") -> tuple[list[Row], Caption]:
    """The rows of a study and their caption, for the terminal or for files."""
    found = rows(study, regime)
    return found, measured_caption(study, found, regime)


def report_paper(regime: str, reference: Path, out: Path) -> list[Path]:
    """Write the paper's own ladder into `out` from `reference`/ladder-<regime>.csv. Raises RoadmapError where the paper has none."""
    found, caption = paper_table(regime, reference)
    _folder(out)
    return _write_tables(out, found, caption) + ladder_figure(found, find_regime(regime), out, "paper", title=caption.title, subtitle=caption.short)


def paper_table(regime: str, reference: Path) -> tuple[list[Row], Caption]:
    files = reference_files(reference)
    if find_regime(regime).name not in files:
        legal = ", ".join(files) or f"none, {reference} holds no ladder-<regime>.csv"
        raise RoadmapError(f"report.regime is {regime!r}, for which there are no paper's numbers in {reference}; legal: {legal}; {nearest(regime, files)}")
    found = paper_rows(regime, files[regime])
    return found, paper_caption(found, regime)


def reference_files(folder: Path) -> Mapping[str, Path]:
    """The ladder-<regime>.csv of a folder by regime."""
    return {p.stem.removeprefix("ladder-"): p for p in sorted(folder.glob("ladder-*.csv"))}


def _write_tables(out: Path, found: list[Row], caption: Caption) -> list[Path]:
    texts = {"table.md": tables.markdown(found, caption), "table.csv": tables.csv(found), "table.tex": tables.latex(found, caption)}
    return [_write(out / name, text.encode()) for name, text in texts.items()]


def _write(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RoadmapError(f"report.out {out} cannot be made: {e.strerror}; legal: a writable folder; choose another with --out") from e
