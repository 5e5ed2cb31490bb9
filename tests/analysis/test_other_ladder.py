"""Proof, tables and attribution of a ladder of timm's networks, whose steps set keywords that others leave to timm."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.attribution.summary import attribute
from analysis.load import gather
from analysis.results.analyse import analyse
from analysis.results.confounds import Status
from roadmap.runs.folder import RunFolder
from roadmap.runs.metric import TOP1
from roadmap.runs.record import Record
from roadmap.runs.study_folder import write_study
from roadmap.study.expand import expand
from roadmap.study.plan import Plan
from tests.helpers.study_files import make_record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The whole ladder with side steps, two seeds, each step half a point better than the one before."""
    study = expand(Plan(name="deit", question="?", ladder="deit", regime="micro", side_steps=True, seeds=(0, 1)))
    folder = write_study(tmp_path, study.name, study.question, study.regime, study.trials, header=study.header())
    for i, trial in enumerate(study.trials):
        run = RunFolder(folder / trial.id)
        run.prepare(trial)
        record = make_record(trial, top1=70 + 0.5 * (i // 2) + 0.1 * trial.seed)
        run.write_record(Record.from_json({**record, "ladder": "deit"}))
    return folder


def test_every_step_is_proven_to_change_what_it_sets_and_nothing_else(folder: Path) -> None:
    analysis = analyse(gather(folder), TOP1)
    proofs = {row.step: row.effect.proof for row in analysis.results if row.effect.proof}
    assert len(proofs) == 9
    assert {step: proof.status for step, proof in proofs.items()} == dict.fromkeys(proofs, Status.CONTROLLED)
    assert set(proofs["layer-scale"].changed) == {"model.init_values"}
    assert proofs["layer-scale"].changed["model.init_values"] == ("null", "1e-06")
    assert set(proofs["average-pooling"].changed) == {"model.class_token", "model.global_pool"}


def test_the_ladder_is_one_order_whose_gain_is_shared_among_its_steps(folder: Path) -> None:
    found = attribute(gather(folder))
    assert found.gain is not None and found.gain.value == pytest.approx(4.5)
    assert {value.player for value in found.values} >= {"stochastic-depth", "layer-scale", "registers", "rms-norm"}
