"""A study that shows all a page can show: made from the committed digits study, with the values that its records do not hold set to invented ones."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from analysis.results.rows import Row, rows

from analysis.load import Study, load_results
from analysis.report.caption import Caption, measured_caption

DIGITS = Path(__file__).parents[2] / "results" / "digits"
HOSTILE = '<script>window.hacked = 1</script><img src="x" onerror="window.hacked = 2">'

ATTRIBUTION: dict[str, Any] = {
    "headline": "Of the +0.27 points from baseline to separate-downsampling the recipe gives +0.33 [−0.40, +1.10] and the architecture −0.06 [−1.00, +0.90] (1 of 2 orders).",
    "values": [
        {"player": "kernel_size", "value": 0.82, "low": 0.31, "high": 1.32},
        {"player": "activation", "value": 0.11, "low": -0.42, "high": 0.65},
        {"player": "norms", "value": -2.4, "low": -3.1, "high": -1.7},
        {"player": "norm", "value": 0.3, "low": None, "high": None},
    ],
    "interactions": [
        {"a": "kernel_size", "b": "norms", "value": -0.4, "low": -1.0, "high": 0.2},
        {"a": "activation", "b": "norm", "value": None, "low": None, "high": None},
    ],
    "orders": "12 of 24 legal orders are complete.",
    "missing": [{"cell": "kernel_size, norm", "cost": "3 runs, 0.01 core-hours"}],
    "notes": ["Other orders may divide the gain otherwise."],
}


def sample_study(*, epochs: int = 16) -> Study:
    """Digits with curves and without controls; `gelu` has a missing seed, `width` one that diverged with a top-1 of 10 and a curve up to there, `stage-ratio` one that failed."""
    study = load_results(DIGITS)
    steps = list(dict.fromkeys(t["step"] for t in study.trials))
    compared = [
        {
            "child": [child, ""],
            "parent": [parent, ""],
            "declared": ["recipe.*" if child == "recipe" else f"model.{child}"],
            "kind": "step",
        }
        for parent, child in pairwise(steps)
    ]
    return dataclasses.replace(
        study,
        trials=[_entry(t, epochs) for t in study.trials if not t["change"]],
        comparisons=compared,
        undefined={"gelu + norm=layer": "needs norms=one"},
    )


def _entry(trial: dict[str, Any], epochs: int) -> dict[str, Any]:
    labels = {k: trial[k] for k in ("id", "fingerprint", "regime", "step", "change", "seed")}
    key = (trial["step"], trial["seed"])
    if key == ("gelu", 2):
        return {**labels, "status": "missing"}
    if key == ("stage-ratio", 1):
        return {**labels, "status": "failed", "top1": None, "error": "out of memory"}
    if key == ("width", 1):
        return {
            **trial,
            "status": "diverged",
            "top1": 10.0,
            "error": "loss is nan in epoch 5",
            "curves": _curves(50.0, trial["seed"], 5),
        }
    return {
        **trial,
        "curves": _curves(trial["top1"], trial["seed"], epochs, ema=trial["step"] == "separate-downsampling"),
    }


def _curves(top1: float, seed: int, epochs: int, *, ema: bool = False) -> dict[str, list[float]]:
    across = list(range(1, epochs + 1))
    rise = [1 - math.exp(-5 * e / epochs) for e in across]
    curves = {
        "epoch": across,
        "train_loss": [
            round(2.3 - (1.9 + 0.05 * seed) * r + 0.03 * math.sin(e * (seed + 1)), 4)
            for e, r in zip(across, rise, strict=True)
        ],
        "top1": [round(top1 * r + 0.4 * math.sin(e * (seed + 2)), 2) for e, r in zip(across, rise, strict=True)],
    }
    return curves | ({"ema_top1": [round(top1 * r**1.2, 2) for r in rise]} if ema else {})


def sample_rows(study: Study) -> list[Row]:
    """The study's rows with every value that a page can show."""
    found = rows(study)
    for i, row in enumerate(found):
        row |= {"hours": 0.003 + 0.0004 * ((7 * i) % 5), "images_per_second": 2000 - 97.5 * ((5 * i) % 14)}
        row |= {
            "sampling_se": 0.4,
            "change_sampling_se": 0.6,
            "protocol": ["other data", "16 of 300 epochs"],
            "paper_difference": 17.1,
            "paper_z": 9.3,
        }
        if row["top1"] is not None:
            row |= {"low": row["top1"] - 0.7, "high": row["top1"] + 0.7}
        if row["change"] is not None:
            row["proof"] = _proof(row, i)
            verdict = "unresolved" if abs(row["change"]) < 1 else "gain" if row["change"] > 0 else "loss"
            judged = row["proof"]["status"] == "controlled"
            row |= {
                "change_p": 0.5 if verdict == "unresolved" else 0.0001,
                "p_holm": (1.0 if verdict == "unresolved" else 0.0004) if judged else None,
                "verdict": verdict if judged else None,
            }
    return found


def _proof(row: Row, place: int) -> dict[str, Any]:
    bundle = {f"recipe.setting_{k}": [k, k + 1] for k in range(17)}
    status = {"kernel-7": "confounded", "gelu": "unproven"}.get(row["step"], "controlled")
    return {
        "status": status,
        "declared": ["recipe.*"] if row["step"] == "recipe" else [f"model.toggle_{place}"],
        "changed": bundle if row["step"] == "recipe" else {f"model.toggle_{place}": ["all", "one"]},
        "confounded_by": ["git_commit 9aa09cb5 and 12ab34cd"] if status == "confounded" else [],
        "unsaid": ["resolved"] if status == "unproven" else [],
        "note": "bundle of 17 settings: no one of them is shown to be the cause" if row["step"] == "recipe" else "",
        "text": status,
        "same": ["data.name", "recipe.lr", "git_commit"],
    }


def sample(*, epochs: int = 16) -> tuple[Study, list[Row], Caption]:
    study = sample_study(epochs=epochs)
    found = sample_rows(study)
    return study, found, measured_caption(study, found)


def hostile_sample() -> tuple[Study, list[Row], Caption]:
    """Markup wherever a record or a study file may hold text."""
    study = sample_study()
    trials = [
        {**t, "id": t["id"] + HOSTILE, "error": HOSTILE, "recipe": HOSTILE, "git_commit": HOSTILE} for t in study.trials
    ]
    trials.append({**trials[0], "id": "variant" + HOSTILE, "change": HOSTILE})
    study = dataclasses.replace(study, name=HOSTILE, question=HOSTILE, trials=trials)
    found = sample_rows(study)
    proven = next(row for row in found if row.get("proof"))
    proven["proof"] |= {
        "note": HOSTILE,
        "declared": [HOSTILE],
        "changed": {HOSTILE: [HOSTILE, HOSTILE]},
        "confounded_by": [HOSTILE],
        "same": [HOSTILE],
    }
    return study, found, measured_caption(study, found)


def ladder_svg(found: list[Row], caption: Caption) -> str:
    """ladder.svg's content, as `roadmap report` draws it."""
    import tempfile

    from analysis.figures.ladder import ladder_figure
    from tests.helpers.convnext import find_regime

    with tempfile.TemporaryDirectory() as folder:
        ladder_figure(
            found, find_regime("micro"), Path(folder), "measured", title=caption.title, subtitle=caption.short
        )
        return (Path(folder) / "ladder.svg").read_text()
