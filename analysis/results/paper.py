"""The paper's numbers: as results of their own, and beside measured ones."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from analysis.results.protocol import ProtocolDifference, ProtocolKind
from analysis.results.results import Analysis, BesidePaper, Findings, PaperNumbers, Result, Role
from analysis.stats.comparisons import against_paper, summarize
from analysis.stats.error_term import error_term
from roadmap.config.errors import RoadmapError
from roadmap.config.recipes import find_recipe
from roadmap.ladder import Ladder, Paper, Regime, Step, find_ladder
from roadmap.runs.metric import TOP1

PRINTED = TOP1  # the metric that the ladders' papers print
TITLES = {"imagenet": "ImageNet-1k"}  # of the data that papers train on
IMAGES = {"imagenet": {"train_images": 1_281_167, "test_images": 50_000}}  # all of it


def paper_numbers(ladder: Ladder, step: Step | None, regime: Regime) -> PaperNumbers:
    """What the paper prints for the step: in this regime, else in the first one that the paper has."""
    printed = ladder.printed_regime(regime.name)
    here = printed.paper.get(step.name) if step else None
    before = printed.paper.get(step.parent or "") if step else None
    return _numbers(here, before, printed.name)


def _numbers(here: Paper | None, before: Paper | None, regime: str) -> PaperNumbers:
    if here is None:
        return PaperNumbers(regime=regime)
    # Both are printed with two decimals, and so is their difference; rounding removes what binary fractions add.
    effect = round(here.top1 - before.top1, 2) if before else None
    return PaperNumbers(
        regime=regime,
        score=here.top1,
        std=here.std,
        effect=effect,
        cost=here.gflops,
        decimals=here.decimals,
        quoted=here.quoted,
    )


def beside_paper(ladder: Ladder, result: Result, regime: Regime) -> BesidePaper:
    """The difference from the printed number, where network, data and image size are the paper's.

    Elsewhere only the list of what differs.
    """
    if result.paper.score is None or not result.n or result.metric is not PRINTED:
        return BesidePaper()
    protocol = tuple(_protocol(ladder, result, regime))
    if any(difference.kind.incomparable for difference in protocol):
        return BesidePaper(protocol=protocol)
    summary = summarize(list(result.score.by_seed.values()))
    rounding = 10.0**-result.paper.decimals
    found = against_paper(summary, result.paper.score, result.paper.std, rounding=rounding)
    return BesidePaper(difference=found.difference, z=found.z, p=found.p, protocol=protocol, note=found.note)


def _protocol(ladder: Ladder, result: Result, regime: Regime) -> Iterator[ProtocolDifference]:
    """In what the runs differ from the paper's protocol."""
    setup, paper = result.setup, ladder.find_regime(result.paper.regime)
    if result.paper.quoted:
        yield ProtocolDifference(ProtocolKind.QUOTED, str(setup.recipe), result.paper.quoted)
    if paper.name != regime.name:
        yield ProtocolDifference(ProtocolKind.NETWORK, regime.name, paper.name)
    if setup.data_name != paper.data:
        yield ProtocolDifference(ProtocolKind.DATA, str(setup.data), TITLES.get(paper.data, paper.data))
    else:
        for name, images in IMAGES.get(paper.data, {}).items():
            if (measured := getattr(setup, name)) not in (None, images):
                yield ProtocolDifference(ProtocolKind.IMAGES, f"{name} {measured:,}", f"{images:,}")
    if setup.image_size != paper.image_size:
        yield ProtocolDifference(ProtocolKind.PIXELS, str(setup.image_size), str(paper.image_size))
    stated = find_recipe(ladder.recipe_name(result.step, paper.name))
    if setup.recipe != stated.name:
        yield ProtocolDifference(ProtocolKind.RECIPE, str(setup.recipe), stated.name)
    elif setup.epochs != stated.epochs:
        yield ProtocolDifference(ProtocolKind.EPOCHS, str(setup.epochs), str(stated.epochs))
    if setup.global_batch != stated.batch_size:
        yield ProtocolDifference(ProtocolKind.BATCH, str(setup.global_batch), str(stated.batch_size))


def paper_analysis(ladder: str, regime: str, reference: Path) -> Analysis:
    """The paper's own ladder as if it were analysed.

    Nothing is compared, for no run of it is known.
    """
    nothing = Findings(metric=PRINTED, error=error_term({}), family=0, controls=None, identical=())
    return Analysis(paper_results(find_ladder(ladder), regime, reference), nothing, regime, PRINTED, ladder)


def paper_results(ladder: Ladder, regime: str, reference: Path) -> list[Result]:
    """The paper's own ladder from ladder-<regime>.csv.

    Raises RoadmapError for a file that does not fit the ladder.
    """
    lines = _read_reference(ladder, reference)
    printed = {name: _printed(line) for name, line in lines.items()}
    results: list[Result] = []
    for step in ladder.order(side_steps=True):
        if step.name not in lines:
            continue
        before = printed.get(step.parent or "")
        numbers = replace(_numbers(printed[step.name], before, regime), quoted=_quoted(ladder, regime, step))
        result = Result(
            measured=False,
            role=Role.STEP if step.on_path else Role.SIDE,
            id=step.id,
            step=step.name,
            what=step.title,
            label=step.name,
            group=step.group,
            parent_step=step.parent,
            params=int(lines[step.name]["params"]),
            macs=int(lines[step.name]["macs"]),
            metric=PRINTED,
            paper=numbers,
        )
        results.append(result)
    return results


def _quoted(ladder: Ladder, regime: str, step: Step) -> str:
    """Return why a printed number is none of the step's recipe; the reference files hold numbers alone."""
    known = ladder.find_regime(regime).paper.get(step.name)
    return known.quoted if known else ""


def _printed(line: Mapping[str, str]) -> Paper:
    top1 = line["paper_top1"]
    return Paper(
        top1=float(top1),
        std=_float(line["paper_top1_std"]),
        gflops=_float(line["paper_gflops"]),
        decimals=len(top1.partition(".")[2]),
    )


def _float(text: str) -> float | None:
    return float(text) if text else None


def _read_reference(ladder: Ladder, path: Path) -> dict[str, dict[str, str]]:
    """Lines of the reference file by step name."""
    try:
        with open(path, newline="") as f:
            lines = {line["name"]: line for line in csv.DictReader(f)}
    except (OSError, KeyError) as e:
        raise RoadmapError(
            f"report.reference {path} cannot be read ({type(e).__name__}: {e}); "
            "legal: a ladder-<regime>.csv of results/reference; restore it from git"
        ) from e
    for name in lines:
        if name not in ladder.steps:
            raise RoadmapError(
                f"report.reference {path} names step {name!r}, which is not on the ladder; "
                f"legal: {', '.join(ladder.steps)}; correct the file or the ladder"
            )
    return lines
