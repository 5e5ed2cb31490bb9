"""A study that shows all a page can show: made from the committed digits study, with the values that its records do not
hold set to invented ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.attribution.shapley import Interaction, Value
from analysis.attribution.shares import Attribution, MissingCell
from analysis.figures.ladder import ladder_figure
from analysis.load import load_results
from analysis.report.caption import Caption, measured_caption
from analysis.report.page import Content, page
from analysis.report.view import View, views
from analysis.results.analyse import analyse
from analysis.results.confounds import Cause, Confound, Note, Proof, Remark, Status
from analysis.results.frames import results_frame
from analysis.results.protocol import ProtocolDifference, ProtocolKind
from analysis.results.results import Analysis, BesidePaper, Effect, Result
from analysis.study import Study
from roadmap.runs.metric import TOP1, Metric
from tests.helpers.study_files import Draft

DIGITS = Path(__file__).parents[2] / "results" / "digits"
HOSTILE = '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 2">'
DOUBTS = {"kernel-7": Status.CONFOUNDED, "gelu": Status.UNPROVEN}

ATTRIBUTION = Attribution(
    study="digits",
    metric=TOP1,
    base="baseline",
    top="separate-downsampling",
    headline="Of the +0.27 points from baseline to separate-downsampling the recipe gives +0.33 [−0.40, +1.10] and the "
    "architecture −0.06 [−1.00, +0.90] (1 of 2 orders).",
    orders="12 of 24 legal orders are complete.",
    gain=None,
    values=(
        Value(0.82, 0.31, 1.32, "kernel_size", "3 to 7", "architecture"),
        Value(0.11, -0.42, 0.65, "activation", "relu to gelu", "architecture"),
        Value(-2.4, -3.1, -1.7, "norms", "all to one", "architecture"),
        Value(0.3, None, None, "norm", "batch to layer", "architecture"),
    ),
    interactions=(
        Interaction("kernel_size", "norms", -0.4, -1.0, 0.2, 2, 2),
        Interaction("activation", "norm", None, None, None, 0, 2),
    ),
    shares=None,
    orders_used=12,
    orders_legal=24,
    cells_trained=12,
    cells_legal=16,
    cells_total=16,
    cells=(),
    missing=(MissingCell("kernel_size, norm", (), {}, 1, 2, "3 runs, 0.01 core-hours"),),
    missing_total=1,
    missing_cost="",
    error="no error",
    notes=("Other orders may divide the gain otherwise.",),
    ids=(),
)


@dataclass(frozen=True)
class Sample:
    """A study, analysed."""

    study: Study
    analysis: Analysis

    @property
    def results(self) -> list[Result]:
        return list(self.analysis.results)

    @property
    def caption(self) -> Caption:
        return measured_caption(self.study, self.analysis)

    @property
    def views(self) -> list[View]:
        return views(self.study, self.analysis)

    def row(self, step: str) -> Result:
        """The row of a step as it is."""
        return next(result for result in self.results if result.step == step and result.is_step)

    def with_results(self, change: Callable[[int, Result], Result]) -> Sample:
        """The same with other results; `change` takes each one's place and itself."""
        changed = [change(i, result) for i, result in enumerate(self.results)]
        return Sample(self.study, replace(self.analysis, results=changed))

    def content(self, attribution: Attribution | None = None) -> Content:
        caption = self.caption
        return Content(
            study=self.study,
            analysis=self.analysis,
            caption=caption,
            frame=results_frame(self.analysis.results),
            views=self.views,
            ladder=ladder_figure(self.analysis, title=caption.title, subtitle=caption.short),
            attribution=attribution,
        )

    def page(self, attribution: Attribution | None = None, *, refresh: int | None = None) -> str:
        return page(self.content(attribution), refresh=refresh)


def digits() -> Draft:
    """The committed study without controls and single changes."""
    draft = Draft.of(load_results(DIGITS))
    trials = [trial for trial in draft.trials if not trial["change"]]
    comparisons = [c for c in draft.comparisons if not c["child"][1]]
    return replace(draft, trials=trials, comparisons=comparisons)


def sample_study(*, epochs: int = 16) -> Draft:
    """Digits with curves, and with runs that did not finish.

    `gelu` has a missing seed, `width` one that diverged with a top-1 of 10 and a curve up to there,
    `stage-ratio` one that failed.
    """
    draft = digits()
    steps = list(dict.fromkeys(trial["step"] for trial in draft.trials))
    trials = [_trial(trial, epochs) for trial in draft.trials]
    comparisons = [_comparison(child, parent) for parent, child in pairwise(steps)]
    undefined = {"gelu + norm=layer": "needs norms=one"}
    return replace(draft, trials=trials, comparisons=comparisons, undefined=undefined)


def _comparison(child: str, parent: str) -> dict[str, Any]:
    declared = ["recipe.*" if child == "recipe" else f"model.{child}"]
    return {"child": [child, ""], "parent": [parent, ""], "declared": declared, "kind": "step"}


def _trial(trial: dict[str, Any], epochs: int) -> dict[str, Any]:
    labels = {name: trial[name] for name in ("id", "fingerprint", "regime", "step", "change", "seed")}
    key = (trial["step"], trial["seed"])
    if key == ("gelu", 2):
        return {**labels, "status": "missing"}
    if key == ("stage-ratio", 1):
        return {**labels, "status": "failed", "top1": None, "error": "out of memory"}
    if key == ("width", 1):
        curves = _curves(50.0, trial["seed"], 5)
        return {**trial, "status": "diverged", "top1": 10.0, "error": "loss is nan in epoch 5", "curves": curves}
    ema = trial["step"] == "separate-downsampling"
    return {**trial, "curves": _curves(trial["top1"], trial["seed"], epochs, ema=ema)}


def _curves(top1: float, seed: int, epochs: int, *, ema: bool = False) -> dict[str, list[float]]:
    across = list(range(1, epochs + 1))
    rise = [1 - math.exp(-5 * epoch / epochs) for epoch in across]
    points = list(zip(across, rise, strict=True))
    train = [round(2.3 - (1.9 + 0.05 * seed) * r + 0.03 * math.sin(e * (seed + 1)), 4) for e, r in points]
    tested = [round(top1 * r + 0.4 * math.sin(e * (seed + 2)), 2) for e, r in points]
    loss = [round(2.3 - 2.0 * r, 4) for r in rise]
    averaged = [round(top1 * r**1.2, 2) for r in rise]
    curves: dict[str, list[float]] = {"epoch": list(across), "train_loss": train, "top1": tested, "loss": loss}
    return curves | ({"ema_top1": averaged} if ema else {})


def sample_of(study: Study, metric: Metric = TOP1) -> Sample:
    """The study's analysis with every value that a page can show."""
    return Sample(study, analyse(study, metric)).with_results(_whole)


def _whole(place: int, result: Result) -> Result:
    hours, speed = 0.003 + 0.0004 * ((7 * place) % 5), 2000 - 97.5 * ((5 * place) % 14)
    score = replace(result.score, sampling_se=0.4 if result.metric.proportion else None)
    if score.mean is not None:
        half = 0.7 if result.metric.proportion else 0.02
        score = replace(score, low=score.mean - half, high=score.mean + half)
    return replace(
        result,
        score=score,
        speed=replace(result.speed, hours=hours, images_per_second=speed),
        beside=BesidePaper(difference=17.1, z=9.3, protocol=PROTOCOL),
        effect=_effect(result, place) if result.effect.value is not None else result.effect,
    )


PROTOCOL = (
    ProtocolDifference(ProtocolKind.DATA, "digits", "ImageNet-1k"),
    ProtocolDifference(ProtocolKind.EPOCHS, "16", "300"),
)


def _effect(result: Result, place: int) -> Effect:
    value, proof = result.effect.value or 0.0, _proof(result, place)
    sampling_se, least = (0.6, 1.0) if result.metric.proportion else (None, 0.05)
    resolved = "gain" if result.metric.gain(value) else "loss"
    p, p_holm, verdict = (0.5, 1.0, "unresolved") if abs(value) < least else (0.0001, 0.0004, resolved)
    measured = replace(result.effect, proof=proof, sampling_se=sampling_se, p=p)
    return replace(measured, p_holm=p_holm, verdict=verdict) if proof.controlled else measured


def _proof(result: Result, place: int) -> Proof:
    status = DOUBTS.get(result.step, Status.CONTROLLED)
    toggle = f"model.toggle_{place}"
    proof = Proof(status, (toggle,), {toggle: ('"all"', '"one"')}, same=("data.name", "recipe.lr", "git_commit"))
    if result.step == "recipe":
        bundle = {f"recipe.setting_{k}": (str(k), str(k + 1)) for k in range(17)}
        notes = (Note(Remark.BUNDLE, tuple(bundle)),)
        return replace(proof, declared=("recipe.*",), changed=bundle, notes=notes)
    if status is Status.CONFOUNDED:
        commit = Confound(Cause.DIFFERS, "git_commit", ('"9aa09cb5"',), ('"12ab34cd"',))
        return replace(proof, confounds=(commit,))
    return replace(proof, unsaid=("resolved",)) if status is Status.UNPROVEN else proof


def sample(*, epochs: int = 16, metric: Metric = TOP1) -> Sample:
    return sample_of(sample_study(epochs=epochs).read(), metric)


def hostile_sample() -> Sample:
    """Markup wherever a record or a study file may hold text."""
    draft = sample_study()
    bad = {"error": HOSTILE, "recipe": HOSTILE, "git_commit": HOSTILE}
    trials = [{**trial, "id": trial["id"] + HOSTILE, **bad} for trial in draft.trials]
    trials.append({**trials[0], "id": "variant" + HOSTILE, "change": HOSTILE})
    found = sample_of(replace(draft, name=HOSTILE, question=HOSTILE, trials=trials).read())
    first = next(i for i, result in enumerate(found.results) if result.effect.proof)
    return Sample(found.study, replace(found.analysis, results=_with_hostile(found.results, first)))


def _with_hostile(results: list[Result], first: int) -> list[Result]:
    return [*results[:first], _hostile(results[first]), *results[first + 1 :]]


def _hostile(result: Result) -> Result:
    assert result.effect.proof is not None
    proof = replace(
        result.effect.proof,
        declared=(HOSTILE,),
        changed={HOSTILE: (HOSTILE, HOSTILE)},
        confounds=(Confound(Cause.DIFFERS, HOSTILE, (HOSTILE,), (HOSTILE,)),),
        same=(HOSTILE,),
        notes=(Note(Remark.IDLE, (HOSTILE,)),),
    )
    return replace(result, effect=replace(result.effect, proof=proof))


def hostile_attribution() -> Attribution:
    return replace(ATTRIBUTION, headline=HOSTILE, notes=(HOSTILE,))
