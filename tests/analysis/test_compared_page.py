"""Two studies laid side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from analysis.report.compare import compare_page, excludes_zero
from analysis.results.analyse import analyse
from analysis.stats.comparisons import change
from roadmap.config.errors import RoadmapError
from tests.helpers.page_samples import (
    Sample,
    digits,
)
from tests.helpers.pages import Page
from tests.helpers.study_files import Draft


def compared(**settings: Any) -> Draft:
    """Digits, whose runs say three settings; `settings` are of the recipe."""
    draft = digits()
    resolved = {
        "model": {"x": 1},
        "recipe": {"epochs": 16, "lr": 0.1, **settings},
        "data": {"name": "digits"},
    }
    trials = [{**trial, "resolved": resolved, "data_digest": "d"} for trial in draft.trials]
    return replace(draft, trials=trials)


def read(draft: Draft) -> Sample:
    study = draft.read()
    return Sample(study, analyse(study))


def compared_text(a: Draft, b: Draft) -> str:
    return Page(compare_page(*((found.study, found.analysis) for found in (read(a), read(b))))).text


def test_two_studies_are_laid_side_by_side_with_their_difference() -> None:
    a, b = compared(), compared(lr=0.2)
    text = compared_text(a, b)
    assert "digits (A) and digits (B) side by side" in text
    assert "14 of 14 shared rows have a finished run in both studies" in text
    assert text.count("✓ controlled: only recipe.lr") == 28
    assert "recipe.lr 0.1 0.2" in text
    assert all(trial["id"] in text for trial in a.trials)


def test_rows_are_matched_by_step_and_change_whatever_they_are_called() -> None:
    a, b = read(compared()), read(compared(lr=0.2))
    renamed = b.with_results(lambda i, result: replace(result, label=f"row {i}", what=f"row {i}"))
    text = Page(compare_page((a.study, a.analysis), (renamed.study, renamed.analysis))).text
    assert "14 of 14 shared rows" in text


def test_studies_that_differ_in_more_than_one_setting_are_confounded() -> None:
    text = compared_text(compared(), compared(lr=0.2, epochs=32))
    assert "2 things differ in every row, so a difference has no one cause." in text
    assert text.count("✗ confounded: 2 differences") == 28 and "✓ controlled" not in text


def test_what_cannot_be_told_apart_is_not_called_controlled() -> None:
    draft = compared()
    dirty = replace(draft, trials=[trial | {"git_dirty": True, "code_digest": None} for trial in draft.trials])
    text = compared_text(dirty, dirty)
    assert text.count("✗ confounded: git_dirty true") == 28 and "✓ controlled" not in text


def test_a_repeat_of_a_study_is_called_the_same_setup() -> None:
    text = compared_text(compared(), compared())
    assert text.count("✓ same setup") == 28 and "0.00 [−0.20, +0.20]" in text


def test_the_difference_of_two_studies_is_that_of_their_means() -> None:
    def raised(trial: dict[str, Any]) -> dict[str, Any]:
        return trial | {"top1": trial["top1"] + 5} if trial["step"] == "gelu" else trial

    draft = compared(lr=0.2)
    a, b = compared(), replace(draft, trials=list(map(raised, draft.trials)))
    found = change(read(b).row("gelu").score.by_seed, read(a).row("gelu").score.by_seed)
    assert found is not None and excludes_zero(found)
    text = compared_text(a, b)
    assert "In 1 of them the 95 % interval of digits (B) − digits (A) excludes 0" in text
    assert "The largest difference is 7 gelu, +5.00 [+4.80, +5.20] points (n = 3 and 3)." in text


def test_studies_without_a_row_in_common_are_refused() -> None:
    a = read(compared())
    none = replace(a.analysis, results=[])
    with pytest.raises(RoadmapError, match=r"^report\.compare .*; legal: studies that share a step; choose"):
        compare_page((a.study, a.analysis), (a.study, none))
