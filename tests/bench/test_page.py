"""The page of benchmarks: made of the files beside it, and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from roadmap.bench import page
from roadmap.bench.pairs import Check, Finding, of_pairs
from roadmap.bench.parts import Bench, measure, write
from roadmap.bench.targets import PARTS

ROOT = Path(__file__).parents[2]


def content(part: str, key: str, value: float, *, apart: float = 0.0) -> dict[str, Any]:
    """What a part leaves that measured one thing, five times the same."""
    return {
        "part": part,
        "method": "By hand.",
        "measured_at": "2030-01-01T00:00:00+00:00",
        "took_seconds": 12.3,
        "pairs": [asdict(of_pairs(key, "all", "ours", "theirs", [(value, 1.0)] * 5))],
        "checks": [{**asdict(Check(name="logits", apart=apart, allowed=0.1)), "agrees": apart <= 0.1}],
        "hardware": {"device": "cpu", "cpu": "a processor", "cores": 2, "threads": 2},
        "packages": {"python": "3.11", "torch": "2.15.0"},
        "code_digest": "2:abc",
    }


def row(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("| C") and name in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_committed_page_is_the_generated_one() -> None:
    folder = ROOT / "results" / "bench"
    assert (folder / page.PAGE).read_text() == page.page(folder)


@pytest.mark.parametrize(("value", "met"), [(1.02, "yes"), (1.2, "**no**")])
def test_a_row_says_what_was_measured_and_whether_it_is_met(tmp_path: Path, value: float, met: str) -> None:
    write(tmp_path, "iteration", "cpu", content("iteration", "iteration", value))
    text = page.page(tmp_path)
    assert row(text, "an iteration")[2:] == ["<= 1.1", f"{value} ({value} to {value})", "5", met]
    assert row(text, "in two slots")[3:] == ["not measured", "", ""]
    assert "## iteration, on a CPU" in text and "a processor, 2 cores, 2 threads" in text


def test_no_target_is_met_where_outputs_differ(tmp_path: Path) -> None:
    write(tmp_path, "iteration", "cpu", content("iteration", "iteration", 1.0, apart=0.2))
    assert row(page.page(tmp_path), "an iteration")[-1] == "no: outputs differ"


def test_what_a_gpu_measured_meets_no_target_of_a_cpu(tmp_path: Path) -> None:
    write(tmp_path, "iteration", "cuda", content("iteration", "iteration", 1.0))
    text = page.page(tmp_path)
    assert "## iteration, on a GPU" in text and row(text, "an iteration")[3] == "not measured"


def test_a_part_is_measured_by_itself_and_tells_each_finding_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    from roadmap.bench import gather

    pair, check = of_pairs("gather", "", "a", "b", [(1.0, 2.0)]), Check(name="means", apart=0.0, allowed=0.0)
    monkeypatch.setattr(gather, "gather", lambda *_: iter((check, pair)))
    told: list[Finding] = []
    left = measure("gather", Bench(device="cpu", pairs=1, gather=lambda _: {}), told.append)
    assert told == [check, pair] and left["pairs"][0]["value"] == 0.5 and left["checks"][0]["agrees"]


def test_every_part_can_be_measured() -> None:
    from roadmap.bench.parts import _begin

    bench = Bench(device="cpu", pairs=1, gather=lambda _: {})
    assert all(_begin(part, bench, Path("nowhere"))[0].endswith(".") for part in PARTS)
