"""Every trial of every shipped study has the fingerprint that it always had: what was trained stays trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from roadmap.study.expand import expand
from roadmap.study.file import EXPERIMENTS, read_plan

GOLDEN = Path(__file__).parents[1] / "golden" / "fingerprints.json"
SIZES = [(path, digits) for path in sorted(EXPERIMENTS.glob("*.yaml")) for digits in (False, True)]


def fingerprints(path: Path, *, digits: bool, data_dir: Path) -> dict[str, str]:
    """{run: its fingerprint} of a shipped study; the names of the ImageNet folder decide nothing else."""
    return {t.id: t.fingerprint for t in expand(read_plan(path, digits=digits), data_dir=data_dir).trials}


@pytest.mark.parametrize(("path", "digits"), SIZES, ids=lambda value: getattr(value, "stem", str(value)))
def test_no_fingerprint_of_a_shipped_study_ever_changes(path: Path, digits: bool, imagenet: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    name = f"{path.stem}, digits" if digits else path.stem
    if digits and "\ndigits:\n" not in path.read_text():
        pytest.skip("the file has no laptop size")
    assert fingerprints(path, digits=digits, data_dir=imagenet) == golden[name]


def test_the_golden_file_names_no_study_that_is_gone() -> None:
    shipped = {path.stem for path, _ in SIZES}
    assert {name.partition(",")[0] for name in json.loads(GOLDEN.read_text())} <= shipped
