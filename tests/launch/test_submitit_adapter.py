"""What is used of submitit is there, in one file; what is missing is named with its version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from roadmap.config.errors import RoadmapError
from roadmap.launch.slurm import submitit_adapter as adapter

ROOT = Path(__file__).parents[2]


def test_this_version_of_submitit_has_all_that_is_used_of_it() -> None:
    broken = adapter.broken_members()
    assert not broken, f"submitit {adapter.version()} broke {broken}; bound it in pyproject.toml and the adapter"


def test_the_bound_of_the_adapter_is_that_of_the_project_and_holds_the_installed_version() -> None:
    declared = re.search(r'"submitit([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert declared is not None
    assert declared[1] == adapter.SUPPORTED
    assert adapter.version() in SpecifierSet(adapter.SUPPORTED)


@pytest.mark.parametrize(
    ("member", "parameters", "fault"),
    [
        ("submitit.slurm.slurm:SlurmExecutor._gone", None, "is gone"),
        ("submitit.gone:anything", None, "is gone"),
        ("submitit.core.submission:process_job", ("folder", "job"), "lacks the parameter job"),
    ],
)
def test_a_member_that_is_gone_or_has_other_parameters_is_named_with_the_version(
    member: str, parameters: tuple[str, ...] | None, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(adapter, "MEMBERS", {**adapter.MEMBERS, member: parameters})
    assert adapter.broken_members() == [f"{member} {fault}"]
    with pytest.raises(RoadmapError) as e:
        adapter.script(tmp_path, 1, module="m", python=None, parameters={})
    for part in (f"submitit {adapter.version()} ", f"{member} {fault}", f"legal: submitit{adapter.SUPPORTED}"):
        assert part in str(e.value)


def test_nothing_else_imports_submitit() -> None:
    importing = re.compile(r"^\s*(import|from) submitit\b", re.MULTILINE)
    users = [p.name for p in (ROOT / "roadmap").rglob("*.py") if importing.search(p.read_text())]
    assert users == ["submitit_adapter.py"]
