"""Small studies with run folders as the trainer leaves them, for the verbs that read records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from study_files import make_trial, write_runs

from roadmap.config.trial import Trial
from roadmap.study.designs import Comparison
from roadmap.study.expand import expand
from roadmap.study.file import Plan

SCATTER = (0.1, -0.1, 0.0)
STEPS = ("move-up-depthwise", "kernel-7", "gelu")
TOGGLES = ("kernel_size", "activation")
WORTH = {"activation=gelu": 1.0, "activations=one": 2.0}

Values = dict[str, Any]
ValuesOf = Callable[[Trial], Values | None]


def top1(trial: Trial) -> float:
    """80, 82 and 84 % for the three steps, with a scatter of 0.1 over the seeds."""
    position = STEPS.index(trial.step)
    return 80.0 + 2.0 * position + SCATTER[(trial.seed + position) % 3]


def finished(trial: Trial) -> Values:
    return {"top1": top1(trial)}


def but_gelu(trial: Trial) -> Values | None:
    """What is left where the last step has not run."""
    return None if trial.step == "gelu" else finished(trial)


def small_study(root: Path, name: str = "small", values: ValuesOf = finished) -> Path:
    """Three steps, three seeds below root/runs, each step compared with the one before."""
    planned = []
    for parent, child, toggle in zip(STEPS[:-1], STEPS[1:], TOGGLES, strict=True):
        comparison = Comparison(child=(child, ""), parent=(parent, ""), declared=(f"model.{toggle}",), kind="step")
        planned.append(comparison.to_json())
    trials = [make_trial(step, seed) for step in STEPS for seed in range(3)]
    return write_runs(root / "runs", trials, values, name=name, header={"comparisons": planned})


def factorial(root: Path, name: str = "factorial", *, skip: str = "none") -> Path:
    """Two changes on kernel-7 that add up, 1 and 2 points, with runs of all cells but `skip`."""
    plan = Plan(
        name=name,
        question="?",
        regime="micro",
        design="factorial",
        base="6",
        seeds=(0, 1),
        changes=({"activation": "gelu"}, {"activations": "one"}),
    )

    def values(t: Trial) -> Values | None:
        if t.change == skip:
            return None
        top = 80.0 + sum(WORTH[word] for word in t.change.split()) + 0.1 * t.seed
        return {"top1": top, "data": t.data.title, "data_name": t.data.name, "global_batch": t.recipe.batch_size}

    return write_planned(root, plan, values)


def write_planned(root: Path, plan: Plan, values: ValuesOf) -> Path:
    """The runs of a plan below root/runs."""
    study = expand(plan)
    return write_runs(root / "runs", list(study.trials), values, name=plan.name, header=study.header())
