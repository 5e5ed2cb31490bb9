from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from analysis.results.rows import rows

from analysis.figures.attribution import resolved
from analysis.figures.curves import TALL, Panel, curves_svg, has_curves
from analysis.figures.svg import inline
from analysis.load import Study, _from_lines, device_hours, load_results, to_lines
from analysis.report.caption import measured_caption
from analysis.report.compare import Prepared, compare_page, excludes_zero
from analysis.report.drawings import curve_drawings, figure_files, hours_name, left_out
from analysis.report.headline import headline, warnings
from analysis.report.page import page
from analysis.report.view import columns, runs_of, views
from analysis.results.costs import Measure, comparable, front, marks, measures, points
from analysis.stats.comparisons import change
from roadmap.config.errors import RoadmapError
from tests.helpers.page_samples import ATTRIBUTION, DIGITS, HOSTILE, hostile_sample, ladder_svg, sample, sample_study

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


def without_curves(study: Study) -> Study:
    return dataclasses.replace(study, trials=[{k: v for k, v in t.items() if k != "curves"} for t in study.trials])


@pytest.fixture(scope="module")
def html() -> str:
    study, found, caption = sample()
    return page(study, found, caption, attribution=ATTRIBUTION, ladder_svg=ladder_svg(found, caption))


def test_the_same_records_give_the_same_bytes_also_when_read_back(html: str) -> None:
    study = _from_lines(to_lines(sample_study()).splitlines())
    _, found, caption = sample()
    assert page(study, found, caption, attribution=ATTRIBUTION, ladder_svg=ladder_svg(found, caption)) == html


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


def test_the_headline_says_how_much_ran_and_what_is_resolved() -> None:
    study, found, caption = sample()
    said = " ".join(headline(views(study, found), dict(caption.facts)["Runs"]))
    assert said.startswith(
        "39 of 42 runs finished, 2 failed (1 of them diverged), 1 missing. Of 13 measured changes, 2 are gains, 1 is a loss and 8 unresolved, 2 without a verdict"
    )
    assert (
        "The largest resolved one is separate downsampling: ConvNeXt, +3.87" in said and "points (n = 3 and 3)." in said
    )


def test_a_bundle_or_confounded_comparison_is_named_before_the_numbers(html: str) -> None:
    study, found, _ = sample()
    first, second = warnings(views(study, found))
    assert first == "1 comparison is confounded: more than the declared change differs: 6 kernel-7."
    assert second.endswith("7 gelu.")
    text = Page(html).text
    assert (
        text.index("1 comparison is confounded")
        < text.index("The ladder")
        < text.index("bundle of 17 settings: no one of them is shown to be the cause")
    )


def test_a_diverged_run_is_shown_and_never_averaged(html: str) -> None:
    study, found, _ = sample()
    row = next(r for r in found if r["step"] == "width")
    kept = [t["top1"] for t in study.trials if t["step"] == "width" and t["seed"] != 1]
    assert row["top1"] == pytest.approx(sum(kept) / 2) and row["n"] == 2
    text = Page(html).text
    assert "width-seed1-690a8d682b 1 – not averaged: diverged: loss is nan in epoch 5" in text
    assert "3 runs failed, diverged or missing; no mean below holds any of them" in text
    assert "2 of 3, 1 failed" in text and "2 of 3, 1 missing" in text


def test_every_run_of_the_study_and_every_row_is_on_the_page(html: str) -> None:
    study, found, _ = sample()
    text = Page(html).text
    assert all(t["id"] in text for t in study.trials)
    for view in views(study, found):
        assert {r.id for r in view.runs if r.averaged} == set(view.row["ids"])
        assert f'id="{view.key}"' in html and f'href="#{view.key}"' in html


def test_each_run_stands_behind_one_row() -> None:
    study, found, _ = sample()
    behind = [t["id"] for entries in runs_of(study, found) for t in entries]
    assert sorted(behind) == sorted(t["id"] for t in study.trials)


def test_what_cannot_be_built_is_said_with_its_reason(html: str) -> None:
    text = Page(html).text
    assert (
        "1 combination cannot be built" in text
        and "gelu + norm=layer needs norms=one" in text
        and "not defined" in text
    )


def test_markup_in_names_is_escaped() -> None:
    study, found, caption = hostile_sample()
    html = page(
        study,
        found,
        caption,
        attribution={**ATTRIBUTION, "headline": HOSTILE, "notes": [HOSTILE]},
        ladder_svg=ladder_svg(found, caption),
    )
    assert "<script>window" not in html and "<img" not in html and not Page(html).handlers
    assert html.count("&lt;script&gt;window.hacked") > 40


def test_a_study_without_judged_values_still_has_a_page() -> None:
    study = load_results(DIGITS)
    bare = dataclasses.replace(
        study,
        trials=[
            {k: t[k] for k in ("id", "fingerprint", "regime", "step", "change", "seed")} | {"status": "missing"}
            for t in study.trials
        ],
        comparisons=[],
    )
    for s in (dataclasses.replace(study, comparisons=[]), bare):
        found = rows(s)
        caption = measured_caption(s, found)
        text = Page(page(s, found, caption, ladder_svg=ladder_svg(found, caption))).text
        assert "The records name no comparisons, so no change is judged." in text
        assert f"{sum(r['n'] for r in found)} of {len(s.trials)} runs finished" in text


def test_the_page_of_three_hundred_epochs_stays_below_one_and_a_half_megabytes() -> None:
    study, found, caption = sample(epochs=300)
    assert len(page(study, found, caption, ladder_svg=ladder_svg(found, caption)).encode()) < 1_500_000


def test_only_a_live_page_fetches_itself() -> None:
    study, found, caption = sample()
    study = without_curves(study)
    svg = "<svg viewBox='0 0 1 1'></svg>"
    still, live = (page(study, found, caption, ladder_svg=svg, refresh=seconds) for seconds in (None, 5))
    assert "fetch(" not in still and 'data-refresh="5"' in live and "connect-src &#39;self&#39;" in live
    with pytest.raises(RoadmapError, match=r"^page\.refresh is 0; legal: whole seconds from 1, or none; "):
        page(study, found, caption, ladder_svg=svg, refresh=0)


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


def test_more_images_per_second_are_better_and_more_macs_worse() -> None:
    _, found, _ = sample()
    few = [
        {**r, "top1": t, "images_per_second": s, "macs": m}
        for r, t, s, m in zip(found, (90.0, 95.0, 93.0), (100, 50, 40), (3, 2, 1), strict=False)
    ]
    macs, speed, _ = measures(found)
    assert [p.on_front for p in points(few, speed)] == [True, True, False]
    assert [p.on_front for p in points(few, macs)] == [False, True, True]


def test_latency_is_a_cost_where_it_was_measured() -> None:
    study, found, _ = sample()
    timed = [
        {**r, "latency": 2.0 - i, "latency_low": 1.0, "latency_high": 3.0} if i < 2 else r for i, r in enumerate(found)
    ]
    assert "latency" not in [m.key for m in measures(found)]
    (latency,) = [m for m in measures(timed) if m.key == "latency"]
    assert [p.cost for p in points(timed, latency)] == [2.0, 1.0]
    column = next(c for c in columns(views(study, timed), "CPU-hours") if c.heading == "ms an image")
    assert [column.text(v) for v in views(study, timed)[:3]] == ["2.00 [1.00, 3.00]", "1.00 [1.00, 3.00]", "–"]
    assert "ms an image" not in [c.heading for c in columns(views(study, found), "CPU-hours")]


def test_accuracies_on_other_data_share_no_axis() -> None:
    _, found, _ = sample()
    found[2]["data_digest"] = "another"
    assert 2 not in comparable(found) and 3 in comparable(found)
    assert all(p.index != 2 for p in points(found, Measure("macs", "GMACs")))


def test_speeds_of_different_machines_share_no_axis_and_no_mean() -> None:
    study = sample_study()
    faster = {"device": "NVIDIA H200"}
    moved = [
        {**t, "hardware": faster} if t["step"] == "layernorm" or (t["step"], t["seed"]) == ("kernel-7", 0) else t
        for t in study.trials
    ]
    study = dataclasses.replace(study, trials=moved)
    found = rows(study)
    at = {r["step"]: i for i, r in enumerate(found)}
    assert (
        found[at["kernel-7"]]["images_per_second"] is found[at["kernel-7"]]["hours"] is None
        and found[at["layernorm"]]["hours"] > 0
    )
    for measure in measures(found):
        drawn = {p.index for p in points(found, measure)}
        assert ({at["kernel-7"], at["layernorm"]} <= drawn) == (measure.key == "macs")
    ((why, names),) = left_out(found, views(study, found))
    assert "trained on another machine" in why and names == ["6 kernel-7", "8 layernorm"]


def test_each_row_has_its_own_short_label() -> None:
    _, found, _ = sample()
    changed = {**found[0], "kind": "variant", "key": ("baseline", "x=1")}
    labels = marks([*found, *[changed] * 30])
    assert len(set(labels)) == len(labels) and labels[:6] == ["0", "1", "2", "3", "4", "4b"] and labels[-1] == "AE"


def test_the_hours_are_named_by_the_device() -> None:
    study = sample_study()
    assert hours_name(study) == "core-hours"
    gpus = [{**t, "hardware": {"device": "NVIDIA A100"}} for t in study.trials]
    assert hours_name(dataclasses.replace(study, trials=gpus)) == "GPU-hours"
    assert hours_name(dataclasses.replace(study, trials=[*gpus, *study.trials])) == "device-hours"
    assert device_hours({"wall_seconds": 1800, "world_size": 2, "hardware": {"device": "cpu", "threads": 8}}) == (
        8.0,
        "core-hours",
    )
    assert device_hours(
        {"wall_seconds": 1800, "world_size": 2, "hardware": {"device": "NVIDIA A100", "threads": 8}}
    ) == (1.0, "GPU-hours")


def text_sizes(element: ET.Element, size: float = 0.0) -> list[float]:
    """Of every text below the element: its own size or the one that it inherits."""
    stated = re.search(r"([\d.]+)px", element.get("style", ""))
    size = float(stated[1]) if stated else size
    return ([size] if element.tag.endswith("}text") else []) + [s for child in element for s in text_sizes(child, size)]


def test_the_single_figures_are_whole_the_same_each_time_and_legible() -> None:
    study, found, _ = sample()
    files = figure_files(study, found, ATTRIBUTION)
    assert list(files) == ["cost.svg", "curves.svg", "attribution.svg"] and files == figure_files(
        study, found, ATTRIBUTION
    )
    for name, content in files.items():
        root = ET.fromstring(content)
        sizes = text_sizes(root)
        assert float(root.attrib["width"].removesuffix("pt")) <= 7.1 * 72, name
        assert sizes and min(sizes) >= 7, name
    words = " ".join("".join(e.itertext()) for e in ET.fromstring(files["curves.svg"]).iter())
    assert "seed 1: diverged" in words


SVG = "{http://www.w3.org/2000/svg}"


def run(seed: int, losses: list[Any], status: str = "finished") -> dict[str, Any]:
    return {
        "id": f"run-{seed}",
        "seed": seed,
        "status": status,
        "top1": 90.0,
        "error": "",
        "curves": {"epoch": list(range(1, len(losses) + 1)), "train_loss": losses},
    }


def lines_of(panels: list[Panel]) -> list[tuple[str, list[tuple[float, float]]]]:
    """(style, points) of every curve: what is clipped to a plot."""
    root = ET.fromstring(curves_svg(panels))
    paths = [path for group in root.iter(f"{SVG}g") if group.get("clip-path") for path in group.iter(f"{SVG}path")]
    numbers = [[float(n) for n in path.attrib["d"][1:].split()] for path in paths]
    return [
        (path.attrib["style"], list(zip(n[::2], n[1::2], strict=True))) for path, n in zip(paths, numbers, strict=True)
    ]


def test_a_curve_shows_its_losses_to_scale_with_round_ticks() -> None:
    panels = [Panel("a", [run(0, [2.2, 1.6, 1.0, 0.4])], [0]), Panel("b", [run(0, [0.4, 2.2])], [0])]
    (_, points), (_, other) = lines_of(panels)
    assert [a - b for a, b in zip([x for x, _ in points[1:]], [x for x, _ in points], strict=False)] == pytest.approx(
        [points[0][0]] * 3, abs=0.11
    )
    falls = [b - a for (_, a), (_, b) in zip(points, points[1:], strict=False)]
    assert falls == pytest.approx([falls[0]] * 3, abs=0.11) and falls[0] > 10, "y grows downwards"
    assert [y for _, y in other] == [points[3][1], points[0][1]], "panels share their axes"
    words = ["".join(e.itertext()) for e in ET.fromstring(curves_svg(panels)).iter(f"{SVG}text")]
    assert words[1 : words.index("training loss")] == ["0", "1", "2", "3", "4", "0.5", "1.0", "1.5", "2.0"]


def test_an_unfinished_run_is_red_ends_with_a_cross_and_does_not_stretch_the_axes() -> None:
    fine, bad = run(0, [3.0, 2.0, 1.0]), run(1, [3.0, 1e30, None, float("nan")], status="diverged")
    alone, both = lines_of([Panel("a", [fine], [0, 1])]), lines_of([Panel("a", [fine, bad], [0, 1])])
    assert [y for _, y in both[0][1]] == [y for _, y in alone[0][1]]
    assert "#b3261e" in both[1][0] and "dasharray" in both[1][0] and "#b3261e" not in both[0][0]
    assert len(both[1][1]) == 2 and max(abs(n) for pair in both[1][1] for n in pair) < 1e5, (
        "a number that browsers can draw"
    )
    svg = curves_svg([Panel("a", [fine, bad], [0, 1])]).decode()
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
    root = ET.fromstring(curves_svg([Panel("a", many, list(range(12)))]))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    places = [
        (float(e.attrib["x"]), float(e.attrib["y"]))
        for e in root.iter(f"{SVG}text")
        if (e.text or "").startswith("seed")
    ]
    assert len(set(places)) == 12 and all(0 < x < width - 20 and 0 < y < height for x, y in places)


def test_markup_in_the_names_of_curves_is_escaped() -> None:
    root = ET.fromstring(curves_svg([Panel(HOSTILE, [{**run(0, [2.0, 1.0]), "status": HOSTILE + "\x07"}], [0])]))
    assert {e.tag for e in root.iter()} <= {SVG + tag for tag in ("svg", "g", "defs", "clipPath", "path", "text")}


def test_curves_on_the_page_take_its_colours() -> None:
    drawings = curve_drawings(views(*sample()[:2]))
    assert len(drawings) == 14
    assert not any(re.search(r"(?<!,)#[0-9a-f]{6}\b", d.svg) for d in drawings), "a colour without the page's"
    assert all("var(--fig-series-0,#0072b2)" in d.svg and "var(--fig-ink,#1a1a1a)" in d.svg for d in drawings)


def test_curves_of_four_hundred_rows_are_cheap() -> None:
    shown = [v for v in views(*sample(epochs=300)[:2]) if any(map(has_curves, v.entries))]
    many = [dataclasses.replace(shown[i % len(shown)], key=f"row-{i}") for i in range(400)]
    start = time.process_time()
    drawings = curve_drawings(many)
    assert (
        time.process_time() - start < 4
        and len(drawings) == 400
        and sum(len(d.svg.encode()) for d in drawings) < 4_500_000
    )


def test_a_study_without_curves_has_no_figure_of_them() -> None:
    study, found, _ = sample()
    assert list(figure_files(without_curves(study), found)) == ["cost.svg"]


@pytest.mark.parametrize(
    ("low", "high", "sure"), [(0.1, 0.5, True), (-0.5, -0.1, True), (-0.1, 0.5, False), (None, None, False)]
)
def test_a_share_is_resolved_where_its_interval_excludes_0(low: float | None, high: float | None, sure: bool) -> None:
    assert resolved({"player": "x", "value": 0.2, "low": low, "high": high}) is sure


def test_an_inlined_figure_keeps_to_itself() -> None:
    parts = '<path id="a" d="M 1.23456 2" style="fill: #2b6c99"/><use xlink:href="#a" clip-path="url(#a)"/>'
    svg = f'<?xml version="1.0"?><!DOCTYPE svg><svg viewBox="0 0 72 72" width="1"><metadata>x</metadata><style type="text/css">*{{a: b}}</style>{parts}</svg>'
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


def prepared(**resolved_recipe: Any) -> Prepared:
    study = load_results(DIGITS)
    study = dataclasses.replace(
        study,
        trials=[t for t in study.trials if not t["change"]],
        comparisons=[c for c in study.comparisons if not c["child"][1]],
    )
    trials = [
        {
            **t,
            "resolved": {
                "model": {"x": 1},
                "recipe": {"epochs": 16, "lr": 0.1, **resolved_recipe},
                "data": {"name": "digits"},
            },
            "data_digest": "d",
        }
        for t in study.trials
    ]
    study = dataclasses.replace(study, trials=trials)
    found = rows(study)
    return Prepared(study, found, measured_caption(study, found))


def test_two_studies_are_laid_side_by_side_with_their_difference() -> None:
    a, b = prepared(), prepared(lr=0.2)
    text = Page(compare_page(a, b)).text
    assert (
        "digits (A) and digits (B) side by side" in text
        and "14 of 14 shared rows have a finished run in both studies" in text
    )
    assert text.count("✓ controlled: only recipe.lr") == 28
    assert "recipe.lr 0.1 0.2" in text
    assert all(i in text for row in [*a.rows, *b.rows] for i in row["ids"])


def test_studies_that_differ_in_more_than_one_setting_are_confounded() -> None:
    text = Page(compare_page(prepared(), prepared(lr=0.2, epochs=32))).text
    assert "2 things differ in every row, so a difference has no one cause." in text
    assert text.count("✗ confounded: 2 differences") == 28 and "controlled" not in text


def test_what_cannot_be_told_apart_is_not_called_controlled() -> None:
    a, b = prepared(), prepared()
    for study in (a.study, b.study):
        for trial in study.trials:
            trial |= {"git_dirty": True, "code_digest": None}
    text = Page(compare_page(a, b)).text
    assert (
        text.count("✗ confounded: git_dirty true: code with uncommitted changes cannot be told apart") == 28
        and "controlled" not in text
    )


def test_a_repeat_of_a_study_is_called_the_same_setup() -> None:
    text = Page(compare_page(prepared(), prepared())).text
    assert text.count("✓ same setup") == 28 and "0.00 [−0.20, +0.20]" in text


def test_the_difference_of_two_studies_is_that_of_their_means() -> None:
    a, b = prepared(), prepared(lr=0.2)
    row = next(r for r in b.rows if r["step"] == "gelu")
    row["by_seed"] = {seed: top1 + 5 for seed, top1 in row["by_seed"].items()}
    found = change(row["by_seed"], next(r for r in a.rows if r["step"] == "gelu")["by_seed"])
    assert found is not None and excludes_zero(found)
    assert "In 1 of them the 95 % interval of digits (B) − digits (A) excludes 0" in (
        text := Page(compare_page(a, b)).text
    )
    assert "The largest difference is 7 gelu, +5.00 [+4.80, +5.20] points (n = 3 and 3)." in text


def test_studies_without_a_row_in_common_are_refused() -> None:
    a = prepared()
    with pytest.raises(
        RoadmapError,
        match=r"^report\.compare has no row in common: digits has baseline, .*; legal: studies that share a step; choose another pair$",
    ):
        compare_page(a, Prepared(a.study, [], a.caption))


PAGE = """
import sys
from tests.helpers.page_samples import sample
from analysis.report.page import page
page(*sample(), ladder_svg="<svg viewBox='0 0 1 1'></svg>")
heavy = {"torch", "torchvision", "timm", "matplotlib.pyplot"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_a_page_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PAGE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
