"""Every row of the papers' tables: parameters and multiply-adds, counted on the built network."""

import csv
from pathlib import Path

import pytest

from roadmap.model.complexity import complexity, macs_of, on_meta, params_of
from roadmap.model.network import ModernizableResNet
from tests.helpers.convnext import REGIMES, STEPS, resolve
from tests.helpers.marks import slow_but

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
TABLES = {
    regime: list(csv.DictReader((REFERENCE / f"ladder-{regime}.csv").open())) for regime in ("resnet50", "resnet200")
}
ROWS = [pytest.param(regime, row, id=f"{regime}-{row['name']}") for regime, rows in TABLES.items() for row in rows]


@pytest.mark.parametrize("regime", TABLES)
def test_the_table_has_all_seventeen_rows_of_the_paper(regime: str) -> None:
    assert len(TABLES[regime]) == 17
    printed = [name for name, paper in REGIMES[regime].paper.items() if paper.gflops is not None]
    assert [row["name"] for row in TABLES[regime]] == printed


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("regime", "row"), slow_but(lambda regime, _: regime == "resnet50", ROWS))
def test_built_network_has_the_tables_parameters_and_macs(regime: str, row: dict[str, str]) -> None:
    plain, scaled = (on_meta(resolve(row["name"], regime, layer_scale=value)) for value in (None, 1e-6))
    assert params_of(plain) == int(row["params"])
    assert params_of(scaled) == int(row["params_layer_scale"])
    assert macs_of(plain, 3, 224) == int(row["macs"]) == macs_of(scaled, 3, 224)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("regime", "row"), ROWS)
def test_macs_agree_with_the_printed_gflops(regime: str, row: dict[str, str]) -> None:
    """Table 10 misprints layernorm (4.46 for 4.15) and, counting more than convolutions, separate-downsampling."""
    misprinted = {("resnet50", "layernorm"): 4.15, ("resnet50", "separate-downsampling"): 4.46}
    printed = misprinted.get((regime, row["name"]), float(row["paper_gflops"]))
    assert float(row["paper_gflops"]) == REGIMES[regime].paper[row["name"]].gflops
    assert abs(complexity(resolve(row["name"], regime), 224).macs / 1e9 - printed) <= 0.0101


@pytest.mark.parametrize(("regime", "row"), ROWS)
def test_step_data_agrees_with_the_table(regime: str, row: dict[str, str]) -> None:
    step, paper = STEPS[row["name"]], REGIMES[regime].paper[row["name"]]
    assert (
        (step.id or "") == row["id"]
        and (step.parent or "") == row["parent"]
        and str(int(step.on_path)) == row["on_path"]
    )
    assert paper.top1 == float(row["paper_top1"])
    assert paper.std == (float(row["paper_top1_std"]) if row["paper_top1_std"] else None)


def test_counting_on_meta_equals_counting_on_memory() -> None:
    spec = resolve("grn", "micro")
    model = ModernizableResNet(spec)
    assert complexity(spec, 16).params == params_of(model)
    assert complexity(spec, 16).macs == macs_of(model, spec.in_chans, 16)


def test_counting_leaves_the_network_in_its_mode_and_without_hooks() -> None:
    model = ModernizableResNet(resolve("baseline", "micro")).train()
    statistics = {k: v.clone() for k, v in model.state_dict().items()}
    macs_of(model, 1, 16)
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
    assert all((v == statistics[k]).all() for k, v in model.state_dict().items())
