"""A crossed study: a change here less the change there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.config.trial import Trial
from roadmap.study.expand import expand
from roadmap.study.plan import Plan
from tests.helpers.comparisons import NINE, SCATTER, table_of
from tests.helpers.study_files import Values, write_runs

Command = Callable[..., Any]


# A crossed study ------------------------------------------------------------------------------------------------------

CONTRAST = "change of separate-downsampling with norm=batch, less that in the first column"


def crossed(out: Path, values: Callable[[Trial], Values]) -> Path:
    """Two changes of 1.0 and 2.5 points, at 64 and at 16 images a forward pass."""
    study = expand(
        Plan(
            name="crossed",
            question="?",
            design="one-at-a-time",
            base="9",
            regime="micro",
            data="digits",
            seeds=(0, 1, 2),
            changes=({"norm": "batch"},),
            cross={"recipe.group_size": [64, 16]},
        )
    )

    def measured(t: Trial) -> dict[str, Any]:
        change = (1.0 if t.recipe.group_size == 64 else 2.5) if "norm=batch" in t.change else 0.0
        return {"top1": 90 + change + SCATTER[(t.seed + len(t.change)) % 3], **values(t)}

    return write_runs(out, list(study.trials), measured, name="crossed", header=study.header())


def contrast_of(folder: Path) -> str:
    _, caption = table_of(folder)
    assert caption.crossed is not None
    return dict(caption.crossed.rows)[CONTRAST][1]


def test_whether_a_change_depends_on_what_is_crossed_is_one_more_proven_comparison(
    tmp_path: Path, command: Command
) -> None:
    folder = crossed(tmp_path, lambda _: {})
    found = contrast_of(folder)
    assert found.startswith("+1.50 [+1.") and found.endswith("]")
    lines = command("check", str(folder)).out
    assert "change of separate-downsampling with norm=batch recipe.group_size=16" in lines and lines.splitlines()[
        -1
    ].startswith("3 comparisons: 3 controlled, 0 not")


@pytest.mark.parametrize("where", ["recipe.group_size=16", "norm=batch recipe.group_size=16"])
def test_a_column_that_was_made_otherwise_leaves_no_answer_across_columns(
    tmp_path: Path, command: Command, where: str
) -> None:
    """The whole second column by other code is controlled inside itself; one of its cells alone is not even that."""
    folder = crossed(tmp_path, lambda t: {"git_commit": "f" * 40} if t.change.endswith(where) else {})
    assert contrast_of(folder) == "+1.50 ‡"
    answer = command("check", str(folder)).out
    assert (
        f"change of {NINE} with norm=batch recipe.group_size=16 against change of {NINE} with norm=batch "
        "recipe.group_size=64: confounded: git_commit" in answer
    )


def test_records_that_do_not_say_how_the_columns_differ_leave_the_answer_unproven(tmp_path: Path) -> None:
    folder = crossed(tmp_path, lambda _: {})
    header = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({k: v for k, v in header.items() if k != "crossings"}))
    assert contrast_of(folder) == "+1.50 ?"
