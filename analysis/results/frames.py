"""Results as tidy tables: one row a result, one row a comparison.

Tables, CSV and notebooks are made of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.results.analyse import analyse
from analysis.results.confounds import Proof, Status
from analysis.results.results import Effect, Result, Role
from analysis.study import Study
from roadmap.runs.metric import TOP1, Metric

if TYPE_CHECKING:
    import pandas as pd


def results_frame(results: Sequence[Result]) -> pd.DataFrame:
    """A row a result, a column a number or word; None where there is nothing to say.

    The metric's numbers are `mean`, `std`, `low`, `high`; an effect's begin with `effect`, a
    paper's with `paper`. `seeds`, `values` and `runs` are lists in one order.
    """
    import pandas as pd

    columns = list(_row(Result(role=Role.OTHER)))  # the same of no result at all
    return pd.DataFrame([_row(result) for result in results], columns=columns, dtype=object)


def comparisons_frame(study: Study, metric: Metric = TOP1, regime: str = "") -> pd.DataFrame:
    """A row a comparison of a study: both cells, the effect with its interval, verdict and proof."""
    import pandas as pd

    results = analyse(study, metric, regime).results
    rows = [_comparison(result) for result in results if result.effect.parent is not None]
    return pd.DataFrame(rows, columns=list(_comparison(Result(role=Role.OTHER))), dtype=object)


def _row(result: Result) -> dict[str, Any]:
    paper, beside = result.paper, result.beside
    return {
        "source": "measured" if result.measured else "paper",
        "kind": str(result.role),
        "id": result.id,
        "step": result.step,
        "what": result.what,
        "as_change": result.as_change,
        "label": result.label,
        "group": result.group,
        "parent": result.effect.parent or result.parent_step,
        "params": result.params,
        "macs": result.macs,
        **_score(result),
        **_effect(result.effect),
        **_costs(result),
        "paper_regime": paper.regime,
        "paper_score": paper.score,
        "paper_std": paper.std,
        "paper_effect": paper.effect,
        "paper_gflops": paper.cost,
        "paper_difference": beside.difference,
        "paper_z": beside.z,
        "protocol": [difference.text for difference in beside.protocol],
    }


def _score(result: Result) -> dict[str, Any]:
    score, runs = result.score, result.runs
    return {
        "metric": result.metric.name,
        "averaged": score.averaged,
        "mean": score.mean,
        "std": score.std,
        "low": score.low,
        "high": score.high,
        "n": result.n,
        "sampling_se": score.sampling_se,
        "planned": runs.planned,
        "failed": runs.failed,
        "missing": runs.missing,
        "hopeless": len(runs.hopeless),
        "seeds": list(score.by_seed),
        "values": list(score.by_seed.values()),
        "runs": list(runs.ids),
    }


def _effect(effect: Effect, prefix: str = "effect_") -> dict[str, Any]:
    proof = effect.proof
    text, status = (proof.text, str(proof.status)) if proof else (None, None)
    return {
        "effect": effect.value,
        f"{prefix}se": effect.se,
        f"{prefix}low": effect.low,
        f"{prefix}high": effect.high,
        f"{prefix}p": effect.p,
        f"{prefix}method": effect.method,
        f"{prefix}mark": effect.mark,
        f"{prefix}note": effect.note,
        f"{prefix}sampling_se": effect.sampling_se,
        "p_holm": effect.p_holm,
        "verdict": effect.verdict,
        "proof": text,
        "status": status,
    }


def _costs(result: Result) -> dict[str, Any]:
    timed = result.latency
    ms, low, high = (timed.ms, timed.low, timed.high) if timed else (None, None, None)
    return {
        "latency": ms,
        "latency_low": low,
        "latency_high": high,
        "images_per_second": result.speed.images_per_second,
        "hours": result.speed.hours,
    }


def _comparison(result: Result) -> dict[str, Any]:
    sides = {"child": result.label, "parent": result.effect.parent, "metric": result.metric.name}
    counts = {"mean": result.score.mean, "n": result.n, "n_parent": len(result.effect.parent_ids)}
    proof = result.effect.proof or Proof(Status.UNPROVEN)
    differs = {"changed": dict(proof.changed), "confounds": list(proof.reasons)}
    return {**sides, **counts, **_effect(result.effect, prefix=""), **differs}
