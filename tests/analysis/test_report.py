from __future__ import annotations

import csv
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from analysis.report.report import report_paper, report_study
from roadmap.config.errors import RoadmapError
from tests.helpers.convnext import STEPS, find_regime, ladder
from tests.helpers.study_files import make_trial, write_runs

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: Path) -> list[str]:
    return ["".join(e.itertext()).strip() for e in ET.parse(svg).iter(f"{SVG}text")]


def squeezed(words: list[str]) -> str:
    """All text without spaces: labels are wrapped."""
    return "".join("".join(words).split())


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
        assert squeezed([STEPS[line["name"]].title]) in everything, line["name"]
        assert squeezed([STEPS[line["name"]].group]) in everything
    name, top1, _ = find_regime(regime).reference or ("", 0.0, 0.0)
    assert any(w.startswith(f"{name} (paper): {top1:.2f}") for w in words)
    assert any("axis starts at" in w and "not at 0" in w for w in words)


def test_the_measured_figure_shows_means_counts_and_what_did_not_run(study_folder: Path, tmp_path: Path) -> None:
    report_study(study_folder, tmp_path)
    words = texts(tmp_path / "ladder.svg")
    for step in ladder(side_steps=True):
        assert squeezed([step.title]) in squeezed(words), step.name
    assert words.count("2 of 3") == 3
    assert not any("paper" in w for w in words if "beyond" not in w and "the paper" not in w), (
        "nothing of the paper is drawn among measured bars of a small regime"
    )


def test_a_step_without_a_finished_run_is_an_empty_row(tmp_path: Path) -> None:
    trials = [make_trial(step, seed) for step in ("recipe", "gelu") for seed in range(3)]
    folder = write_runs(tmp_path, trials, lambda t: {} if t.step == "recipe" else {"status": "failed", "error": "x"})
    report_study(folder, tmp_path / "out")
    words = texts(tmp_path / "out" / "ladder.svg")
    assert (
        words.count("0 of 3 finished") == 1 and words.count("not run") == [s.name for s in ladder()].index("gelu") - 1
    )


def test_a_study_of_which_nothing_finished_is_still_reported(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, [make_trial("gelu", 0)], lambda t: None)
    report_study(folder, tmp_path / "out")
    assert "0 of 1 runs finished, 1 missing" in (tmp_path / "out" / "table.md").read_text()


def test_no_letter_is_smaller_than_7_points(study_folder: Path, reference: Path, tmp_path: Path) -> None:
    report_study(study_folder, tmp_path / "measured")
    report_paper("resnet50", reference, tmp_path / "paper")
    for kind in ("measured", "paper"):
        root = ET.parse(tmp_path / kind / "ladder.svg").getroot()
        assert float(root.attrib["width"].removesuffix("pt")) <= 7 * 72, "wider than a page of text"
        sizes = [float(e.attrib["style"].split("px")[0].split()[-1]) for e in root.iter(f"{SVG}text")]
        assert len(sizes) > 50 and min(sizes) >= 7


@pytest.mark.parametrize("source", ["measured", "paper"])
def test_no_two_texts_of_the_figure_overlap(source: str, study_folder: Path, reference: Path) -> None:
    import matplotlib
    from matplotlib.text import Text

    from analysis.figures.ladder import STYLE, draw
    from analysis.load import gather
    from analysis.report.report import paper_table, study_table

    found, caption = study_table(gather(study_folder)) if source == "measured" else paper_table("resnet50", reference)
    with matplotlib.rc_context(STYLE):
        figure = draw(
            found, find_regime("micro" if source == "measured" else "resnet50"), source, caption.title, caption.short
        )
        figure.canvas.draw()
        drawn = [
            t
            for t in figure.findobj(Text)
            if t.get_text().strip() and t.get_visible() and t.get_window_extent().width > 0
        ]
        page = figure.bbox
        boxes = [(t.get_text(), t.get_window_extent()) for t in drawn if not _hidden_axis_label(t)]
    for i, (a, box) in enumerate(boxes):
        assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y0 >= page.y0 and box.y1 <= page.y1, (
            f"{a!r} leaves the page"
        )
        for b, other in boxes[i + 1 :]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 + 1 < other.y1 and other.y0 + 1 < box.y1), (
                f"{a!r} overlaps {b!r}"
            )


def _hidden_axis_label(text: object) -> bool:
    """Tick labels of axes that are switched off are in the figure, but not on the page."""
    axes = getattr(text, "axes", None)
    return axes is not None and not axes.axison and text not in axes.texts


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
heavy = {"torch", "torchvision", "timm", "pandas", "scipy", "matplotlib.pyplot"} & set(sys.modules)
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


def test_a_measured_report_imports_no_torch(study_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUDY, str(tmp_path / "out"), str(study_folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
