from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import pytest

from analysis.load import load_results, to_lines
from analysis.report.headline import headline, warnings
from analysis.report.view import anchors, runs_of
from analysis.results.analyse import analyse
from analysis.results.costs import front
from roadmap.config.errors import RoadmapError
from roadmap.runs.metric import LOSS, TOP1
from tests.helpers.page_samples import (
    ATTRIBUTION,
    DIGITS,
    Sample,
    hostile_attribution,
    hostile_sample,
    sample,
    sample_of,
    sample_study,
)
from tests.helpers.pages import Page, without_curves
from tests.helpers.study_files import Draft

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes_also_when_read_back(html: str, whole: Sample, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_bytes(to_lines(whole.study))
    assert sample_of(load_results(tmp_path)).page(ATTRIBUTION) == html


def test_the_page_needs_no_other_file_and_no_network(html: str) -> None:
    found = Page(html)
    assert all(a.startswith(("data:text/csv", "data:application/x-tex")) for a in found.addresses), found.addresses
    assert not found.handlers
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_every_link_leads_somewhere_and_every_id_is_one(html: str) -> None:
    found = Page(html)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert found.headings[0] == 1 and all(b - a <= 1 for a, b in zip(found.headings, found.headings[1:], strict=False))


def test_only_the_pages_own_scripts_may_run(html: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy and len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert (
        f"script-src &#39;sha256-{digest}&#39;" in policy[1]
        and "default-src &#39;none&#39;" in policy[1]
        and "connect-src" not in policy[1]
    )


def test_the_headline_says_how_much_ran_and_what_is_resolved(whole: Sample) -> None:
    counts, verdicts, largest = headline(whole.views, whole.caption.runs)
    assert counts == "39 of 42 runs finished, 2 failed (1 of them diverged), 1 missing."
    assert [int(n) for n in re.findall(r"\d+", verdicts)][:5] == [13, 2, 1, 8, 2]
    assert "+3.87" in largest and "points" in largest and "separate downsampling" in largest


def test_the_headline_of_a_loss_calls_less_a_gain() -> None:
    found = sample(metric=LOSS)
    effects = [result.effect for result in found.results if result.effect.verdict in ("gain", "loss")]
    assert {(effect.verdict, (effect.value or 0) < 0) for effect in effects} == {("gain", True), ("loss", False)}
    text = Page(found.page()).text
    assert "−0.1524" in text and "nats" in text and "The change lowers test loss" in text
    assert not re.search(r"top-?1|points against|accuracy", text, re.IGNORECASE)


def test_a_bundle_or_confounded_comparison_is_named_before_the_numbers(html: str, whole: Sample) -> None:
    first, second = warnings(whole.views)
    assert "confounded" in first and first.endswith("6 kernel-7.")
    assert "unproven" in second and second.endswith("7 gelu.")
    text = Page(html).text
    assert text.index(first) < text.index("The ladder") < text.index("bundle of 17 settings")


def test_a_diverged_run_is_shown_and_never_averaged(html: str, whole: Sample) -> None:
    row = whole.row("width")
    of_step = [run for run in whole.study.runs if run.cell.step == "width"]
    kept = [run.value(TOP1) for run in of_step if run.seed != 1]
    assert row.score.mean == pytest.approx(sum(kept) / 2) and row.n == 2
    text = Page(html).text
    assert "width-seed1-690a8d682b 1 – not averaged: diverged: loss is nan in epoch 5" in text
    assert "2 of 3, 1 failed" in text and "2 of 3, 1 missing" in text


def test_every_run_of_the_study_and_every_row_is_on_the_page(html: str, whole: Sample) -> None:
    text = Page(html).text
    assert all(run.id in text for run in whole.study.runs)
    for view in whole.views:
        assert {run.id for run in view.runs if run.averaged} == set(view.result.runs.ids)
        assert f'id="{view.key}"' in html and f'href="#{view.key}"' in html


def test_each_run_stands_behind_one_row(whole: Sample) -> None:
    behind = [run.id for runs in runs_of(whole.study, whole.analysis) for run in runs]
    assert sorted(behind) == sorted(run.id for run in whole.study.runs)


def test_an_anchor_is_the_cells_whatever_it_is_called(whole: Sample) -> None:
    renamed = [replace(result, label="same", what="same") for result in whole.results]
    assert anchors(renamed) == anchors(whole.results)
    assert len(set(anchors([*whole.results, *whole.results]))) == 2 * len(whole.results)


def test_what_cannot_be_built_is_said_with_its_reason(html: str) -> None:
    text = Page(html).text
    assert "gelu + norm=layer needs norms=one" in text and "not defined" in text


def test_markup_in_names_is_escaped() -> None:
    html = hostile_sample().page(hostile_attribution())
    assert "<script>window" not in html and "<img" not in html and not Page(html).handlers
    assert html.count("&lt;script&gt;window.hacked") > 40


def test_a_study_without_judged_values_still_has_a_page() -> None:
    labels = ("id", "fingerprint", "regime", "step", "change", "seed")
    draft = replace(Draft.of(load_results(DIGITS)), comparisons=[])
    missing = [dict(zip(labels, itemgetter(*labels)(trial), strict=True), status="missing") for trial in draft.trials]
    for study in (draft.read(), replace(draft, trials=missing).read()):
        found = Sample(study, analyse(study))
        text = Page(found.page()).text
        assert "no change is judged" in text
        assert f"{sum(result.n for result in found.results)} of {len(study.runs)} runs finished" in text


@pytest.mark.slow
def test_the_page_of_three_hundred_epochs_stays_below_one_and_a_half_megabytes() -> None:
    assert len(sample(epochs=300).page().encode()) < 1_500_000


@pytest.mark.slow
def test_only_a_live_page_fetches_itself() -> None:
    found = sample_of(without_curves(sample_study()).read())
    still, live = (found.page(refresh=seconds) for seconds in (None, 5))
    assert "fetch(" not in still and 'data-refresh="5"' in live and "connect-src &#39;self&#39;" in live
    with pytest.raises(RoadmapError, match=r"^page\.refresh is 0; legal: whole seconds from 1, or none; "):
        found.page(refresh=0)


@pytest.mark.parametrize(
    ("pairs", "best"),
    [
        ([(1, 1), (2, 2), (3, 3)], {0, 1, 2}),
        ([(1, 3), (2, 2), (3, 3)], {0}),
        ([(1, 1), (1, 2), (2, 2)], {1}),
        ([(1, 1), (1, 1)], {0, 1}),
        ([], set()),
    ],
)
def test_the_front_holds_what_nothing_beats(pairs: list[tuple[float, float]], best: set[int]) -> None:
    assert front(pairs) == best


PAGE = """
import sys
from tests.helpers.page_samples import sample
sample().page()
heavy = {"torch", "torchvision", "timm", "matplotlib.pyplot"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


@pytest.mark.slow
def test_a_page_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
