"""check: is the declared change all that differs? The exit status says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.small_studies import STEPS, Values, but_gelu, small_study, top1

Command = Callable[..., Any]
COUNTED = "{} comparisons: {} controlled, {} not, {} without finished runs"


def proofs(answer: Any) -> list[str | None]:
    """The status of each comparison's proof, None where there is none."""
    comparisons = json.loads(answer.out)["comparisons"]
    return [c["proof"] and c["proof"]["status"] for c in comparisons]


def test_check_is_content_with_a_controlled_study(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path)
    answer = command("check", "small")
    assert answer.status == 0, answer.err
    assert COUNTED.format(2, 2, 0, 0) in answer.out
    assert "model.kernel_size 3 -> 7" in answer.out and "model.activation relu -> gelu" in answer.out
    found = command("check", "small", "--json").json()["comparisons"]
    assert [(c["label"], c["parent"]) for c in found] == [("kernel-7", STEPS[0]), ("gelu", "kernel-7")]
    assert all(c["proof"]["status"] == "controlled" for c in found)
    assert all(len(c["ids"]) == len(c["parent_ids"]) == 3 for c in found)


CONFOUNDS: list[tuple[Values, str]] = [
    ({"git_commit": "f" * 40}, "git_commit"),
    ({"git_dirty": True}, "git_dirty"),
    ({"world_size": 2}, "world_size 1 and 2"),
    ({"packages": {"torch": "2.14.0", "timm": "1.0.31"}}, "packages.torch 2.15.0 and 2.14.0"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("change", "says"), CONFOUNDS, ids=lambda x: x if isinstance(x, str) else "")
def test_check_fails_where_a_comparison_is_not_controlled(
    command: Command, tmp_path: Path, change: Values, says: str
) -> None:
    def values(t: Any) -> Values:
        return {"top1": top1(t), **(change if t.step == "gelu" else {})}

    small_study(tmp_path, values=values)
    answer = command("check", "small")
    assert answer.status == 1 and COUNTED.format(2, 1, 1, 0) in answer.out
    assert f"gelu against kernel-7: confounded: {says}" in answer.out
    as_json = command("check", "small", "--json")
    assert as_json.status == 1 and proofs(as_json) == ["controlled", "confounded"]


def test_check_fails_where_records_do_not_say_all(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=lambda t: {"top1": top1(t), "resolved": None})
    answer = command("check", "small")
    assert answer.status == 1 and COUNTED.format(2, 0, 2, 0) in answer.out
    assert "resolved not recorded" in answer.out
    assert proofs(command("check", "small", "--json")) == ["unproven", "unproven"]


def test_check_says_what_has_not_run_and_does_not_call_it_proven(command: Command, tmp_path: Path) -> None:
    small_study(tmp_path, values=but_gelu)
    answer = command("check", "small")
    assert answer.status == 0 and COUNTED.format(2, 1, 0, 1) in answer.out
    assert proofs(command("check", "small", "--json")) == ["controlled", None]
