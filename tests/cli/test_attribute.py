"""attribute: each toggle's share of the gain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_studies import factorial, small_study, write_planned

from roadmap.study.file import Plan

Command = Callable[..., Any]


def test_attribute_gives_each_change_its_share(command: Command, tmp_path: Path) -> None:
    factorial(tmp_path)
    found = command("attribute", "factorial", "--json").json()
    shares = {v["player"]: round(v["value"], 6) for v in found["values"]}
    assert shares == {"activation": 1.0, "activations": 2.0}
    assert found["gain"]["value"] == pytest.approx(3.0)
    counts = ("cells_trained", "cells_total", "missing_total", "orders_used", "orders_legal")
    assert [found[key] for key in counts] == [4, 4, 0, 2, 2]
    assert len(found["ids"]) == 8
    out = command("attribute", "factorial").out
    assert "Shapley value" in out and "+1.00" in out and "+2.00" in out


def test_attribute_names_the_cell_that_lacks(command: Command, tmp_path: Path) -> None:
    factorial(tmp_path, skip="activations=one")
    found = command("attribute", "factorial", "--json").json()
    assert [found[key] for key in ("cells_trained", "missing_total", "orders_used")] == [3, 1, 1]
    assert "Missing cells: 1" in command("attribute", "factorial").out


def test_attribute_takes_runs_of_other_studies_only_where_asked_or_known(command: Command, tmp_path: Path) -> None:
    factorial(tmp_path, "whole")
    factorial(tmp_path, "part", skip="activations=one")
    small_study(tmp_path)
    assert command("attribute", "part", "--json").json()["missing_total"] == 0
    assert command("attribute", "part", "--with", "small", "--json").json()["missing_total"] == 1
    assert "'smaal'" in command("attribute", "part", "--with", "smaal").refusal().what


def test_attribute_refuses_a_study_without_a_lattice(command: Command, tmp_path: Path) -> None:
    plan = Plan(
        name="networks",
        question="?",
        regime="micro",
        design="models",
        model=("timm/test_vit", "timm/test_resnet"),
        recipe="digits-adamw",
        image_size=32,
    )
    write_planned(tmp_path, plan, lambda t: {"top1": 80.0})
    refusal = command("attribute", "networks").refusal()
    assert "networks" in refusal.what and "roadmap report networks" in refusal.advice
