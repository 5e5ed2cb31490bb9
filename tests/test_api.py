"""The notebook interface: a study from its file to its figure, with pandas at the edge."""

from __future__ import annotations

from pathlib import Path

import pytest

import roadmap
from roadmap.config.errors import RoadmapError
from tests.helpers.small_studies import STEPS, small_study

FILE = "question: Does it train?\nregime: micro\ndata: digits\nsteps: [0, 1]\nepochs: 1\nseeds: [0, 1]\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_that_ships_has_its_trials(place: Path) -> None:
    study = roadmap.Study.from_file("kernel", digits=True)
    assert study.name == roadmap.Study.from_file("kernel-digits").name == "kernel-digits"
    assert len({t.id for t in study.trials}) == len(study.trials) > 10
    with pytest.raises(RoadmapError, match="kernle"):
        roadmap.Study.from_file("kernle")


@pytest.mark.slow
def test_a_study_runs_is_compared_drawn_and_reported(place: Path) -> None:
    (place / "mine.yaml").write_text(FILE)
    study = roadmap.Study.from_file("mine.yaml", runs=place / "out")
    with pytest.raises(RoadmapError, match="mine"):
        study.load()
    ended = []
    runs = study.run(finished=lambda run, record: ended.append(run.path.name))
    assert list(runs["status"]) == ["finished"] * 4 and sorted(ended) == sorted(runs["id"])
    assert set(runs["step"]) == {"baseline", "recipe"} and runs["top1"].between(5, 100).all()
    assert study.runs.equals(runs), "a second look trains nothing and shows the same"
    [comparison] = study.compare().to_dict("records")
    means = runs.groupby("step")["top1"].mean()
    assert comparison["effect"] == pytest.approx(means["recipe"] - means["baseline"])
    assert comparison["low"] <= comparison["effect"] <= comparison["high"]
    assert study.ladder_figure().axes
    written = study.report()
    assert {p.parent for p in written} == {place / "out" / "mine" / "report"}
    assert all(p.exists() for p in written)


@pytest.mark.slow
def test_runs_and_comparisons_of_a_folder(place: Path) -> None:
    folder = small_study(place)
    runs = roadmap.load_runs(folder)
    assert len(runs) == 9 and set(runs["step"]) == set(STEPS)
    for given in ("small", folder, "runs/small"):
        table = roadmap.compare(given)
        assert list(table["child"]) == ["kernel-7", "gelu"] and list(table["verdict"]) == ["gain", "gain"]
        assert list(table["effect"].round(6)) == [2.0, 2.0] and list(table["status"]) == ["controlled"] * 2
    with pytest.raises(RoadmapError, match="top2"):
        roadmap.compare("small", metric="top2")


def test_a_figure_shows_itself_in_a_notebook(place: Path) -> None:
    small_study(place)
    figure = roadmap.ladder_figure("small")
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
