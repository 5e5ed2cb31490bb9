"""The figures of the page: fronts, curves, shares."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from analysis.attribution.shapley import Estimate
from analysis.figures.attribution import resolved
from analysis.figures.axes import has_curves
from analysis.figures.curves import TALL, Panel, curves_svg
from analysis.figures.svg import inline
from analysis.report.columns import columns
from analysis.report.drawings import curve_drawings, figure_files, hours_name, left_out
from analysis.results.analyse import analyse
from analysis.results.costs import comparable, marks, measures, points
from analysis.results.results import Result, Role
from analysis.study import Latency, Run
from roadmap.runs.metric import LOSS, TOP1
from tests.helpers.page_samples import (
    ATTRIBUTION,
    HOSTILE,
    Sample,
    sample,
    sample_of,
    sample_study,
)
from tests.helpers.pages import without_curves
from tests.helpers.study_files import runs_of as read_runs


def run(seed: int, losses: list[Any], status: str = "finished") -> Run:
    curves = {"epoch": list(range(1, len(losses) + 1)), "train_loss": losses}
    labels = {"id": f"run-{seed}", "fingerprint": "f", "regime": "micro", "step": "gelu", "change": "", "seed": seed}
    (found,) = read_runs([{**labels, "status": status, "top1": 90.0, "error": "", "curves": curves}])
    return found


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


@pytest.mark.slow
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
