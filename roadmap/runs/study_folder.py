"""The folder of a study: study.json, the planned trials and what is compared, so that a missing run is noticed.

No torch.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from roadmap.config.errors import listing
from roadmap.config.trial import Trial
from roadmap.runs.io import RunError, read_json, write_json

LABELS = ("id", "fingerprint", "regime", "step", "change", "seed")  # of a trial in study.json


def study_folder(out: Path, study: str) -> Path:
    """Return the folder of a study below `out`."""
    return out / study


def write_study(
    out: Path,
    study: str,
    question: str,
    regime: str,
    trials: Iterable[Trial],
    *,
    header: Mapping[str, Any] | None = None,
) -> Path:
    """Note the planned trials in study.json, adding to those of earlier calls; returns the study's folder.

    header: `Study.header`, the design and what is compared. Raises RunError where earlier calls planned trials of
    another regime: a comparison names its cells by step and change alone, so those of two regimes would be one.
    """
    folder = study_folder(out, study)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as e:
        raise RunError(
            f"output folder {folder} cannot be made: {e.strerror}; legal: a writable folder; choose another with --runs"
        ) from e
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two calls at once shall both be noted
        known = read_json(folder / "study.json") or {"trials": []}
        _refuse_other_regime(known, regime, folder)
        planned = {t["id"]: t for t in known["trials"]}
        planned |= {t.id: _noted(t) for t in trials}
        named = {"name": study, "question": question, "regime": regime}
        content = {**_joined(known, header or {}), **named, "trials": list(planned.values())}
        if content != known:
            write_json(folder / "study.json", content)
    return folder


def _refuse_other_regime(known: Mapping[str, Any], regime: str, folder: Path) -> None:
    others = sorted({t["regime"] for t in known["trials"]} - {regime})
    if others:
        raise RunError(
            f"study.regime is {regime!r}, but {folder} has trials of regime {listing(others)}; legal: one "
            "regime a study; "
            "reason: its cells are told apart by step and change alone; choose another --name"
        )


def _noted(trial: Trial) -> dict[str, Any]:
    return {label: getattr(trial, label) for label in LABELS}


def _joined(known: Mapping[str, Any], header: Mapping[str, Any]) -> dict[str, Any]:
    """Return the design as it is asked for now, with the comparisons and undefined cells of earlier calls."""
    asked = {key: header.get(key, known.get(key, usual)) for key, usual in _USUAL.items()}
    compared = {key: _renewed(known.get(key, []), header.get(key, [])) for key in ("comparisons", "crossings")}
    cells = {(c["step"], c["change"]): c for c in (*known.get("cells", ()), *header.get("cells", ()))}
    undefined = {**known.get("undefined", {}), **header.get("undefined", {})}
    return {**asked, "cells": list(cells.values()), **compared, "undefined": undefined}


_USUAL: Mapping[str, Any] = {"design": "ladder", "ladder": "convnext", "notes": [], "points": []}


def _renewed(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the old comparisons that are not asked for anew, then the new ones: a cell is compared with one other."""
    children = [c["child"] for c in new]
    return [*(c for c in old if c["child"] not in children), *new]
