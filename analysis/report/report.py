"""`roadmap report`: a study's records, or a paper's numbers, -> results/<study>/ with tables, figures, attribution and page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analysis.attribution.summary import Attribution, attribute, markdown, to_json
from analysis.figures.ladder import ladder_figure, ladder_svg
from analysis.load import RECORDS, Study, open_study, outcome, to_lines
from analysis.report import tables
from analysis.report.caption import Caption, measured_caption, paper_caption
from analysis.report.compare import Prepared, compare_page
from analysis.report.drawings import figure_files
from analysis.report.page import page
from analysis.results.rows import Row, analyse, paper_rows
from roadmap.config.errors import RoadmapError, nearest
from roadmap.ladder.convnext import find_regime
from roadmap.runs.io import write_bytes
from roadmap.runs.record import FINISHED


def report_study(source: Path, out: Path, regime: str = "") -> list[Path]:
    """Write all files of results/<study>/ into `out` from run folders (runs/<study>) or from committed results (results/<study>)."""
    study = open_study(source, curves=True)
    found, caption = study_table(study, regime)
    _folder(out)
    paths = [_write(out / RECORDS, to_lines(study)), *_write_tables(out, found, caption)]
    paths += ladder_figure(
        found, find_regime(regime or study.regime), out, "measured", title=caption.title, subtitle=caption.short
    )
    attribution = attribution_of(study)
    shares = to_json(attribution) if attribution else None
    if attribution:
        paths.append(_write(out / "attribution.md", markdown(attribution).encode()))
    for name, content in figure_files(study, found, shares, regime).items():
        paths.append(_write(out / name, content))
    made = page(study, found, caption, attribution=shares, ladder_svg=(out / "ladder.svg").read_text(), regime=regime)
    return [*paths, _write(out / "report.html", made.encode())]


def attribution_of(study: Study) -> Attribution | None:
    """Of the designs whose cells are a lattice, once both of its ends are trained; from this study's records alone, so that the same records give the same bytes."""
    cells = {(t["step"], t["change"]) for t in study.trials if outcome(t) == FINISHED and "resolved" in t}
    if (
        study.design not in ("ladder", "factorial")
        or len(
            cells
            & {
                tuple(c[end])
                for c in study.comparisons
                if c["kind"] in ("step", "change")
                for end in ("child", "parent")
            }
        )
        < 2
    ):
        return None
    found = attribute(study)
    return found if found.gain else None


def live_page(source: Path, refresh: int) -> str:
    """The page of a study as it is now, which fetches itself again every `refresh` seconds; nothing is written."""
    study = open_study(source, curves=True)
    found, caption = study_table(study)
    svg = ladder_svg(found, find_regime(study.regime), "measured", title=caption.title, subtitle=caption.short)
    attribution = attribution_of(study)
    return page(
        study,
        found,
        caption,
        attribution=to_json(attribution) if attribution else None,
        ladder_svg=svg,
        refresh=refresh,
    )


def compare_studies(a: Path, b: Path, out: Path) -> Path:
    """Two studies side by side on one page, written into `out` as A-and-B.html. Raises RoadmapError where they have no row in common."""
    prepared = []
    for source in (a, b):
        study = open_study(source)
        prepared.append(Prepared(study, *study_table(study)))
    content = compare_page(*prepared)
    _folder(out)
    return _write(out / f"{a.name}-and-{b.name}.html", content.encode())


def study_table(study: Study, regime: str = "") -> tuple[list[Row], Caption]:
    """The rows of a study and their caption, for the terminal or for files."""
    found, findings = analyse(study, regime)
    return found, measured_caption(study, found, regime, findings)


def report_paper(regime: str, reference: Path, out: Path) -> list[Path]:
    """Write the paper's own ladder into `out` from `reference`/ladder-<regime>.csv. Raises RoadmapError where the paper has none."""
    found, caption = paper_table(regime, reference)
    _folder(out)
    return _write_tables(out, found, caption) + ladder_figure(
        found, find_regime(regime), out, "paper", title=caption.title, subtitle=caption.short
    )


def paper_table(regime: str, reference: Path) -> tuple[list[Row], Caption]:
    files = reference_files(reference)
    if find_regime(regime).name not in files:
        legal = ", ".join(files) or f"none, {reference} holds no ladder-<regime>.csv"
        raise RoadmapError(
            f"report.regime is {regime!r}, for which there are no paper's numbers in {reference}; legal: {legal}; {nearest(regime, files)}"
        )
    found = paper_rows(regime, files[regime])
    return found, paper_caption(found, regime)


def reference_files(folder: Path) -> Mapping[str, Path]:
    """The ladder-<regime>.csv of a folder by regime."""
    return {p.stem.removeprefix("ladder-"): p for p in sorted(folder.glob("ladder-*.csv"))}


def _write_tables(out: Path, found: list[Row], caption: Caption) -> list[Path]:
    texts = {
        "table.md": tables.markdown(found, caption),
        "table.csv": tables.csv(found),
        "table.tex": tables.latex(found, caption),
    }
    return [_write(out / name, text.encode()) for name, text in texts.items()]


def _write(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RoadmapError(
            f"report.out {out} cannot be made: {e.strerror}; legal: a writable folder; choose another with --out"
        ) from e
