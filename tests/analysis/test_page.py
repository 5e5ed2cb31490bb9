from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from analysis.attribution.shapley import Estimate
from analysis.figures.attribution import resolved
from analysis.figures.axes import has_curves
from analysis.figures.curves import TALL, Panel, curves_svg
from analysis.figures.svg import inline
from analysis.load import load_results, to_lines
from analysis.report.columns import columns
from analysis.report.compare import compare_page, excludes_zero
from analysis.report.drawings import curve_drawings, figure_files, hours_name, left_out
from analysis.report.headline import headline, warnings
from analysis.report.view import anchors, runs_of
from analysis.results.analyse import analyse
from analysis.results.costs import comparable, front, marks, measures, points
from analysis.results.results import Result, Role
from analysis.stats.comparisons import change
from analysis.study import Latency, Run
from roadmap.config.errors import RoadmapError
from roadmap.runs.metric import LOSS, TOP1
from tests.helpers.page_samples import (
    ATTRIBUTION,
    DIGITS,
    HOSTILE,
    Sample,
    digits,
    hostile_attribution,
    hostile_sample,
    sample,
    sample_of,
    sample_study,
)
from tests.helpers.study_files import Draft
from tests.helpers.study_files import runs_of as read_runs

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What the tests ask of a page: its ids, links, headings, addresses and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        found = {k: v or "" for k, v in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.handlers += [k for k in found if k.startswith("on")]
        self.headings += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        for key in ("href", "src", "xlink:href"):
            if key in found:
                (self.links if found[key].startswith("#") else self.addresses).append(found[key])

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.words += [] if self.inside in ("style", "script") else [data]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def without_curves(draft: Draft) -> Draft:
    return replace(draft, trials=[trial | {"curves": None} for trial in draft.trials])


@pytest.fixture(scope="module")
def whole() -> Sample:
    return sample()


@pytest.fixture(scope="module")
def html(whole: Sample) -> str:
    return whole.page(ATTRIBUTION)


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


def test_the_page_of_three_hundred_epochs_stays_below_one_and_a_half_megabytes() -> None:
    assert len(sample(epochs=300).page().encode()) < 1_500_000


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


def with_numbers(result: Result, mean: float, speed: float, macs: int) -> Result:
    return replace(
        result,
        score=replace(result.score, mean=mean),
        speed=replace(result.speed, images_per_second=speed),
        macs=macs,
    )


def test_more_images_per_second_are_better_and_more_macs_worse(whole: Sample) -> None:
    numbers = ((90.0, 100.0, 3), (95.0, 50.0, 2), (93.0, 40.0, 1))
    few = [with_numbers(result, *three) for result, three in zip(whole.results, numbers, strict=False)]
    macs, speed, _ = measures(few)
    assert [point.on_front for point in points(few, speed)] == [True, True, False]
    assert [point.on_front for point in points(few, macs)] == [False, True, True]
    by_loss = [replace(result, metric=LOSS) for result in few]
    assert [point.on_front for point in points(by_loss, speed)] == [True, False, False]


def test_latency_is_a_cost_where_it_was_measured(whole: Sample) -> None:
    times = [Latency(2.0, 1.0, 3.0, 5), Latency(1.0, 1.0, 3.0, 5)]

    def with_time(i: int, result: Result) -> Result:
        return replace(result, latency=times[i]) if i < 2 else result

    timed = whole.with_results(with_time)
    assert "latency" not in [measure.key for measure in measures(whole.results)]
    (latency,) = [measure for measure in measures(timed.results) if measure.key == "latency"]
    assert [point.cost for point in points(timed.results, latency)] == [2.0, 1.0]
    (column,) = [c for c in columns(timed.views, TOP1, "core-hours") if c.heading == "ms an image"]
    shown = [column.cell(view).text for view in timed.views[:3]]
    assert shown == ["2.00 [1.00, 3.00]", "1.00 [1.00, 3.00]", "–"]
    assert "ms an image" not in [c.heading for c in columns(whole.views, TOP1, "core-hours")]


def test_scores_on_other_data_share_no_axis(whole: Sample) -> None:
    def change(i: int, result: Result) -> Result:
        return replace(result, setup=replace(result.setup, data_digest="another")) if i == 2 else result

    found = whole.with_results(change).results
    macs = measures(found)[0]
    assert 2 not in comparable(found) and 3 in comparable(found)
    assert all(point.index != 2 for point in points(found, macs))


def test_speeds_of_different_machines_share_no_axis_and_no_mean() -> None:
    draft = sample_study()
    elsewhere = {"hardware": {"device": "NVIDIA H200"}}

    def moves(trial: dict[str, Any]) -> bool:
        return trial["step"] == "layernorm" or (trial["step"], trial["seed"]) == ("kernel-7", 0)

    def moved_trial(trial: dict[str, Any]) -> dict[str, Any]:
        return trial | elsewhere if moves(trial) else trial

    study = replace(draft, trials=list(map(moved_trial, draft.trials))).read()
    found = Sample(study, analyse(study))
    at = {result.step: i for i, result in enumerate(found.results)}
    mixed, moved = found.results[at["kernel-7"]].speed, found.results[at["layernorm"]].speed
    assert mixed.several and mixed.images_per_second is mixed.hours is None and moved.hours is not None
    for measure in measures(found.results):
        drawn = {point.index for point in points(found.results, measure)}
        assert ({at["kernel-7"], at["layernorm"]} <= drawn) == (measure.key == "macs")
    ((_, names),) = left_out(found.analysis, found.views)
    assert names == ["6 kernel-7", "8 layernorm"]


def test_each_row_has_its_own_short_label(whole: Sample) -> None:
    changed = replace(whole.results[0], role=Role.VARIANT)
    labels = marks([*whole.results[:-1], *[changed] * 31])
    assert len(set(labels)) == len(labels) and labels[:6] == ["0", "1", "2", "3", "4", "4b"] and labels[-1] == "AE"


def test_the_hours_are_named_by_the_device() -> None:
    draft = sample_study()
    moved = [{**trial, "hardware": {"device": "NVIDIA A100"}} for trial in draft.trials]
    assert hours_name(draft.read(), TOP1) == "core-hours"
    assert hours_name(replace(draft, trials=moved).read(), TOP1) == "GPU-hours"
    renamed = [{**trial, "id": f"{trial['id']}-moved"} for trial in moved]
    assert hours_name(replace(draft, trials=[*draft.trials, *renamed]).read(), TOP1) == "device-hours"


def text_sizes(element: ET.Element, size: float = 0.0) -> list[float]:
    """Of every text below the element: its own size or the one that it inherits."""
    stated = re.search(r"([\d.]+)px", element.get("style", ""))
    size = float(stated[1]) if stated else size
    sizes = [size] if element.tag.endswith("}text") else []
    for child in element:
        sizes += text_sizes(child, size)
    return sizes


def test_the_single_figures_are_whole_the_same_each_time_and_legible(whole: Sample) -> None:
    files = figure_files(whole.study, whole.analysis, whole.views, ATTRIBUTION)
    assert list(files) == ["cost.svg", "curves.svg", "attribution.svg"]
    assert files == figure_files(whole.study, whole.analysis, whole.views, ATTRIBUTION)
    for name, content in files.items():
        root = ET.fromstring(content)
        sizes = text_sizes(root)
        assert float(root.attrib["width"].removesuffix("pt")) <= 7.1 * 72, name
        assert sizes and min(sizes) >= 7, name
    words = " ".join("".join(e.itertext()) for e in ET.fromstring(files["curves.svg"]).iter())
    assert "seed 1: diverged" in words


SVG = "{http://www.w3.org/2000/svg}"


def run(seed: int, losses: list[Any], status: str = "finished") -> Run:
    curves = {"epoch": list(range(1, len(losses) + 1)), "train_loss": losses}
    labels = {"id": f"run-{seed}", "fingerprint": "f", "regime": "micro", "step": "gelu", "change": "", "seed": seed}
    (found,) = read_runs([{**labels, "status": status, "top1": 90.0, "error": "", "curves": curves}])
    return found


def drawn(panels: list[Panel]) -> str:
    return curves_svg(panels, TOP1)


def lines_of(panels: list[Panel]) -> list[tuple[str, list[tuple[float, float]]]]:
    """(style, points) of every curve: what is clipped to a plot."""
    root = ET.fromstring(drawn(panels))
    paths = [path for group in root.iter(f"{SVG}g") if group.get("clip-path") for path in group.iter(f"{SVG}path")]
    return [(path.attrib["style"], points_of(path)) for path in paths]


def points_of(path: ET.Element) -> list[tuple[float, float]]:
    numbers = list(map(float, path.attrib["d"][1:].split()))
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def test_a_curve_shows_its_losses_to_scale_with_round_ticks() -> None:
    panels = [Panel("a", [run(0, [2.2, 1.6, 1.0, 0.4])], [0]), Panel("b", [run(0, [0.4, 2.2])], [0])]
    (_, points), (_, other) = lines_of(panels)
    steps = [b - a for (a, _), (b, _) in pairwise(points)]
    falls = [b - a for (_, a), (_, b) in pairwise(points)]
    assert steps == pytest.approx([points[0][0]] * 3, abs=0.11)
    assert falls == pytest.approx([falls[0]] * 3, abs=0.11) and falls[0] > 10, "y grows downwards"
    assert [y for _, y in other] == [points[3][1], points[0][1]], "panels share their axes"
    words = ["".join(e.itertext()) for e in ET.fromstring(drawn(panels)).iter(f"{SVG}text")]
    assert words[1 : words.index("training loss")] == ["0", "1", "2", "3", "4", "0.5", "1.0", "1.5", "2.0"]


def test_an_unfinished_run_is_red_ends_with_a_cross_and_does_not_stretch_the_axes() -> None:
    fine, bad = run(0, [3.0, 2.0, 1.0]), run(1, [3.0, 1e30, None, float("nan")], status="diverged")
    alone, both = lines_of([Panel("a", [fine], [0, 1])]), lines_of([Panel("a", [fine, bad], [0, 1])])
    assert both[0][1][0][1] == alone[0][1][0][1] and both[0][1][-1][1] == alone[0][1][-1][1]
    assert "#b3261e" in both[1][0] and "dasharray" in both[1][0] and "#b3261e" not in both[0][0]
    assert len(both[1][1]) == 2 and max(abs(n) for pair in both[1][1] for n in pair) < 1e5, (
        "a number that browsers can draw"
    )
    svg = drawn([Panel("a", [fine, bad], [0, 1])])
    cross = re.findall(r'd="M([\d.-]+) ([\d.-]+)l4 4m0 -4l-4 4"', svg)
    assert len(cross) == 1 and float(cross[0][1]) == pytest.approx(-TALL - 2, abs=0.01) and "seed 1: diverged" in svg


def test_each_seed_keeps_its_colour_where_others_are_missing() -> None:
    styles = [
        style
        for style, _ in lines_of(
            [
                Panel("a", [run(0, [2.0, 1.0]), run(2, [2.0, 1.0])], [0, 1, 2]),
                Panel("b", [run(2, [2.0, 1.0])], [0, 1, 2]),
            ]
        )
    ]
    assert styles[1] == styles[2] != styles[0]


def test_a_legend_of_many_seeds_has_room() -> None:
    many = [run(seed, [2.0, 1.0]) for seed in range(12)]
    root = ET.fromstring(drawn([Panel("a", many, list(range(12)))]))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    places = [
        (float(e.attrib["x"]), float(e.attrib["y"]))
        for e in root.iter(f"{SVG}text")
        if (e.text or "").startswith("seed")
    ]
    assert len(set(places)) == 12 and all(0 < x < width - 20 and 0 < y < height for x, y in places)


def test_markup_in_the_names_of_curves_is_escaped() -> None:
    root = ET.fromstring(drawn([Panel(HOSTILE, [run(0, [2.0, 1.0], status=HOSTILE + "\x07")], [0])]))
    known = {SVG + tag for tag in ("svg", "g", "defs", "clipPath", "path", "text")}
    assert {e.tag for e in root.iter()} <= known


def test_curves_of_a_loss_are_the_losses(whole: Sample) -> None:
    found = sample(metric=LOSS)
    svg = figure_files(found.study, found.analysis, found.views, None)["curves.svg"]
    words = {"".join(e.itertext()) for e in ET.fromstring(svg).iter(f"{SVG}text")}
    assert "test loss (nats)" in words and "top-1 (%)" not in words


def test_curves_on_the_page_take_its_colours(whole: Sample) -> None:
    drawings = curve_drawings(whole.views, TOP1)
    assert len(drawings) == 14
    assert not any(re.search(r"(?<!,)#[0-9a-f]{6}\b", d.svg) for d in drawings), "a colour without the page's"
    assert all("var(--fig-series-0,#0072b2)" in d.svg and "var(--fig-ink,#1a1a1a)" in d.svg for d in drawings)


def test_curves_of_four_hundred_rows_are_cheap() -> None:
    shown = [view for view in sample(epochs=300).views if any(map(has_curves, view.behind))]
    many = [replace(shown[i % len(shown)], key=f"row-{i}") for i in range(400)]
    start = time.process_time()
    drawings = curve_drawings(many, TOP1)
    assert time.process_time() - start < 4 and len(drawings) == 400
    assert sum(len(d.svg.encode()) for d in drawings) < 4_500_000


def test_a_study_without_curves_has_no_figure_of_them() -> None:
    found = sample_of(without_curves(sample_study()).read())
    assert list(figure_files(found.study, found.analysis, found.views, None)) == ["cost.svg"]


@pytest.mark.parametrize(
    ("low", "high", "sure"), [(0.1, 0.5, True), (-0.5, -0.1, True), (-0.1, 0.5, False), (None, None, False)]
)
def test_a_share_is_resolved_where_its_interval_excludes_0(low: float | None, high: float | None, sure: bool) -> None:
    assert resolved(Estimate(0.2, low, high)) is sure


def test_an_inlined_figure_keeps_to_itself() -> None:
    parts = '<path id="a" d="M 1.23456 2" style="fill: #2b6c99"/><use xlink:href="#a" clip-path="url(#a)"/>'
    svg = (
        '<?xml version="1.0"?><!DOCTYPE svg><svg viewBox="0 0 72 72" width="1"><metadata>x</metadata><style '
        f'type="text/css">*{{a: b}}</style>{parts}</svg>'
    )
    found = inline(svg, "p", 'says "A" & <B>')
    assert found.startswith("<svg") and "<style" not in found and "metadata" not in found
    assert (
        'id="p-a"' in found
        and 'href="#p-a"' in found
        and "url(#p-a)" in found
        and 'd="M 1.23 2"' in found
        and "var(--fig-bar,#2b6c99)" in found
    )
    assert 'role="img"' in found and 'aria-label="says &quot;A&quot; &amp; &lt;B&gt;"' in found


def compared(**settings: Any) -> Draft:
    """Digits, whose runs say three settings; `settings` are of the recipe."""
    draft = digits()
    resolved = {
        "model": {"x": 1},
        "recipe": {"epochs": 16, "lr": 0.1, **settings},
        "data": {"name": "digits"},
    }
    trials = [{**trial, "resolved": resolved, "data_digest": "d"} for trial in draft.trials]
    return replace(draft, trials=trials)


def read(draft: Draft) -> Sample:
    study = draft.read()
    return Sample(study, analyse(study))


def compared_text(a: Draft, b: Draft) -> str:
    return Page(compare_page(*((found.study, found.analysis) for found in (read(a), read(b))))).text


def test_two_studies_are_laid_side_by_side_with_their_difference() -> None:
    a, b = compared(), compared(lr=0.2)
    text = compared_text(a, b)
    assert "digits (A) and digits (B) side by side" in text
    assert "14 of 14 shared rows have a finished run in both studies" in text
    assert text.count("✓ controlled: only recipe.lr") == 28
    assert "recipe.lr 0.1 0.2" in text
    assert all(trial["id"] in text for trial in a.trials)


def test_rows_are_matched_by_step_and_change_whatever_they_are_called() -> None:
    a, b = read(compared()), read(compared(lr=0.2))
    renamed = b.with_results(lambda i, result: replace(result, label=f"row {i}", what=f"row {i}"))
    text = Page(compare_page((a.study, a.analysis), (renamed.study, renamed.analysis))).text
    assert "14 of 14 shared rows" in text


def test_studies_that_differ_in_more_than_one_setting_are_confounded() -> None:
    text = compared_text(compared(), compared(lr=0.2, epochs=32))
    assert "2 things differ in every row, so a difference has no one cause." in text
    assert text.count("✗ confounded: 2 differences") == 28 and "✓ controlled" not in text


def test_what_cannot_be_told_apart_is_not_called_controlled() -> None:
    draft = compared()
    dirty = replace(draft, trials=[trial | {"git_dirty": True, "code_digest": None} for trial in draft.trials])
    text = compared_text(dirty, dirty)
    assert text.count("✗ confounded: git_dirty true") == 28 and "✓ controlled" not in text


def test_a_repeat_of_a_study_is_called_the_same_setup() -> None:
    text = compared_text(compared(), compared())
    assert text.count("✓ same setup") == 28 and "0.00 [−0.20, +0.20]" in text


def test_the_difference_of_two_studies_is_that_of_their_means() -> None:
    def raised(trial: dict[str, Any]) -> dict[str, Any]:
        return trial | {"top1": trial["top1"] + 5} if trial["step"] == "gelu" else trial

    draft = compared(lr=0.2)
    a, b = compared(), replace(draft, trials=list(map(raised, draft.trials)))
    found = change(read(b).row("gelu").score.by_seed, read(a).row("gelu").score.by_seed)
    assert found is not None and excludes_zero(found)
    text = compared_text(a, b)
    assert "In 1 of them the 95 % interval of digits (B) − digits (A) excludes 0" in text
    assert "The largest difference is 7 gelu, +5.00 [+4.80, +5.20] points (n = 3 and 3)." in text


def test_studies_without_a_row_in_common_are_refused() -> None:
    a = read(compared())
    none = replace(a.analysis, results=[])
    with pytest.raises(RoadmapError, match=r"^report\.compare .*; legal: studies that share a step; choose"):
        compare_page((a.study, a.analysis), (a.study, none))


PAGE = """
import sys
from tests.helpers.page_samples import sample
sample().page()
heavy = {"torch", "torchvision", "timm", "matplotlib.pyplot"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_a_page_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
