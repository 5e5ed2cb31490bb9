from __future__ import annotations

import csv
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from analysis.figures.ladder import ladder_figure
from analysis.figures.style import StyledFigure
from analysis.load import gather
from analysis.report.caption import measured_caption
from analysis.report.report import paper_report, report_paper, report_study, study_report
from analysis.results.analyse import analyse
from analysis.results.results import Analysis, Findings, Result, Role, Score
from analysis.stats.error_term import error_term
from roadmap.config.errors import RoadmapError
from roadmap.config.trial import Trial
from roadmap.ladder import find_ladder
from roadmap.runs.metric import LOSS, TOP1
from tests.helpers.study_files import make_trial, write_runs

LADDER = find_ladder()
ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: Path) -> list[str]:
    return ["".join(e.itertext()).strip() for e in ET.parse(svg).iter(f"{SVG}text")]


def squeezed(words: list[str]) -> str:
    """All text without spaces: labels are wrapped."""
    return "".join("".join(words).split())


@pytest.mark.slow
def test_a_report_is_made_again_from_committed_results_to_the_byte(study_folder: Path, tmp_path: Path) -> None:
    first = report_study(study_folder, tmp_path / "a")
    second = report_study(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in first] == [
        "records.jsonl",
        "table.md",
        "table.csv",
        "table.tex",
        "ladder.png",
        "ladder.svg",
        "attribution.md",
        "cost.svg",
        "attribution.svg",
        "report.html",
    ]
    for a, b in zip(first, second, strict=True):
        assert a.name == b.name and a.read_bytes() == b.read_bytes(), a.name


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
def test_the_papers_figure_shows_every_number_of_its_file(regime: str, reference: Path, tmp_path: Path) -> None:
    report_paper(regime, reference, tmp_path)
    words = texts(tmp_path / "ladder.svg")
    everything = squeezed(words)
    with open(reference / f"ladder-{regime}.csv") as f:
        lines = list(csv.DictReader(f))
    assert len(lines) == 17
    for line in lines:
        number = f"{float(line['paper_top1']):.2f}" + (
            f" ± {float(line['paper_top1_std']):.2f}" if line["paper_top1_std"] else ""
        )
        assert number in words, line["name"]
        assert any(w.rstrip("†") == f"{float(line['paper_gflops']):.2f}" for w in words), line["name"]
        assert squeezed([LADDER.steps[line["name"]].title]) in everything, line["name"]
        assert squeezed([LADDER.steps[line["name"]].group]) in everything
    name, top1, _ = LADDER.find_regime(regime).reference or ("", 0.0, 0.0)
    assert any(w.startswith(f"{name} (paper): {top1:.2f}") for w in words)
    assert any("axis starts at" in w and "not at 0" in w for w in words)


@pytest.mark.slow
def test_the_measured_figure_shows_means_counts_and_what_did_not_run(study_folder: Path, tmp_path: Path) -> None:
    report_study(study_folder, tmp_path)
    words = texts(tmp_path / "ladder.svg")
    for step in LADDER.order(side_steps=True):
        assert squeezed([step.title]) in squeezed(words), step.name
    assert words.count("2 of 3") == 3
    assert not any("paper" in w for w in words if "beyond" not in w and "the paper" not in w), (
        "nothing of the paper is drawn among measured bars of a small regime"
    )


def test_a_step_without_a_finished_run_is_an_empty_row(tmp_path: Path) -> None:
    trials = [make_trial(step, seed) for step in ("recipe", "gelu") for seed in range(3)]

    def values(trial: Trial) -> dict[str, object]:
        return {} if trial.step == "recipe" else {"status": "failed", "error": "x"}

    folder = write_runs(tmp_path, trials, values)
    report_study(folder, tmp_path / "out")
    words = texts(tmp_path / "out" / "ladder.svg")
    assert (
        words.count("0 of 3 finished") == 1
        and words.count("not run") == [s.name for s in LADDER.order()].index("gelu") - 1
    )


def test_a_study_of_which_nothing_finished_is_still_reported(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, [make_trial("gelu", 0)], lambda t: None)
    report_study(folder, tmp_path / "out")
    assert "0 of 1 runs finished, 1 missing" in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.slow
def test_no_letter_is_smaller_than_7_points(study_folder: Path, reference: Path, tmp_path: Path) -> None:
    report_study(study_folder, tmp_path / "measured")
    report_paper("resnet50", reference, tmp_path / "paper")
    for kind in ("measured", "paper"):
        root = ET.parse(tmp_path / kind / "ladder.svg").getroot()
        assert float(root.attrib["width"].removesuffix("pt")) <= 7 * 72, "wider than a page of text"
        sizes = [float(e.attrib["style"].split("px")[0].split()[-1]) for e in root.iter(f"{SVG}text")]
        assert len(sizes) > 50 and min(sizes) >= 7


@pytest.mark.slow
@pytest.mark.sampled(1)
@pytest.mark.parametrize("source", ["measured", "loss", "paper"])
def test_no_two_texts_of_the_figure_overlap(source: str, study_folder: Path, reference: Path) -> None:
    from matplotlib.text import Text

    figure = _figure(source, study_folder, reference)
    figure.canvas.draw()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    drawn = [text for text in shown if text.get_window_extent().width > 0 and not _hidden_axis_label(text)]
    page, boxes = figure.bbox, [(text.get_text(), text.get_window_extent()) for text in drawn]
    for i, (a, box) in enumerate(boxes):
        inside = box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1
        assert inside, f"{a!r} leaves the page"
        for b, other in boxes[i + 1 :]:
            beside = box.x0 >= other.x1 or other.x0 >= box.x1
            assert beside or box.y0 + 1 >= other.y1 or other.y0 + 1 >= box.y1, f"{a!r} overlaps {b!r}"


def _figure(source: str, study_folder: Path, reference: Path) -> StyledFigure:
    if source == "paper":
        report = paper_report("resnet50", reference)
        analysis, caption = report.analysis, report.caption
    else:
        study = gather(study_folder)
        analysis = analyse(study, LOSS if source == "loss" else TOP1)
        caption = measured_caption(study, analysis)
    return ladder_figure(analysis, title=caption.title, subtitle=caption.short)


@pytest.mark.slow
def test_a_figure_shows_itself_and_leaves_the_style_of_others_alone(study_folder: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    figure = ladder_figure(analyse(gather(study_folder)))
    assert figure._repr_png_().startswith(b"\x89PNG") and figure.svg().rstrip().endswith("</svg>")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
def test_a_report_by_loss_names_loss_on_every_axis(study_folder: Path) -> None:
    files = study_report(gather(study_folder, curves=True), LOSS).files
    for name in ("ladder.svg", "cost.svg"):
        words = [" ".join(e.itertext()) for e in ET.fromstring(files[name]).iter(f"{SVG}text")]
        assert any("test loss" in word.lower() for word in words), name
        assert not any("top-1" in word.lower() or "%" in word for word in words), name
    assert "top-1" not in files["report.html"].decode().lower()


@pytest.mark.slow
def test_a_study_is_analysed_once(study_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from analysis.report import report

    calls: list[str] = []

    def counted(*words: Any) -> Analysis:
        calls.append("analysed")
        return analyse(*words)

    monkeypatch.setattr(report, "analyse", counted)
    monkeypatch.setattr(report, "write_bytes", lambda *_: pytest.fail("written before the report was whole"))
    report.study_report(gather(study_folder))
    assert calls == ["analysed"]


def test_another_ladder_has_its_own_groups_steps_and_sources() -> None:
    deit = find_ladder("deit")
    regime = deit.find_regime("micro")
    steps = deit.order()[:4]
    results = [
        Result(
            role=Role.STEP, id=s.id, step=s.name, what=s.title, label=s.name, group=s.group, score=Score(mean=90.0 + i)
        )
        for i, s in enumerate(steps)
    ]
    nothing = Findings(metric=TOP1, error=error_term({}), family=0, controls=None, identical=())
    analysis = Analysis(results, nothing, regime.name, TOP1, "deit")
    words = squeezed([" ".join(e.itertext()) for e in ET.fromstring(ladder_figure(analysis).svg()).iter(f"{SVG}text")])
    assert all(squeezed([step.title]) in words and squeezed([step.group]) in words for step in steps)
    assert "ConvNeXt" not in words


def _hidden_axis_label(text: object) -> bool:
    """Tick labels of axes that are switched off are in the figure, but not on the page."""
    axes = getattr(text, "axes", None)
    return axes is not None and not axes.axison and text not in axes.texts


@pytest.mark.slow
def test_an_unwritable_folder_is_refused(study_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        RoadmapError, match=r"^report\.out .*file/x cannot be made: .*; legal: a writable folder; choose another"
    ):
        report_study(study_folder, tmp_path / "file" / "x")


PAPER = """
import sys
from pathlib import Path
from analysis.report.report import report_paper
report_paper("resnet200", Path("results/reference"), Path(sys.argv[1]))
heavy = {"torch", "torchvision", "timm", "matplotlib.pyplot"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""

STUDY = """
import sys
from pathlib import Path
from analysis.report.report import report_study
report_study(Path(sys.argv[2]), Path(sys.argv[1]))
heavy = {"torch", "torchvision", "timm", "matplotlib.pyplot"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


@pytest.mark.slow
def test_the_papers_figure_takes_under_3_s_and_imports_nothing_heavy(tmp_path: Path) -> None:
    import resource

    subprocess.run(
        [sys.executable, "-c", "import matplotlib.figure, matplotlib.backends.backend_svg, matplotlib.font_manager"],
        check=True,
    )
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PAPER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 3, (
        f"CPU time, with {wall:.1f} s on the clock"
    )


@pytest.mark.slow
def test_a_measured_report_imports_no_torch(study_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUDY, str(tmp_path / "out"), str(study_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
