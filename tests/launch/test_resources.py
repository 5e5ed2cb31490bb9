"""What a run asks of a machine: what is legal, whence it comes, and the nodes of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roadmap.cli.cluster_options import RESOURCES
from roadmap.cli.forecast import GpuHours
from roadmap.config.errors import ConfigError, RoadmapError
from roadmap.launch.resources import Resources, shape_of
from roadmap.launch.slurm.resources import SlurmResources, resources
from tests.helpers.launches import make_trial


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"time": "1-00:30:00"},
            "slurm.time is '1-00:30:00'; legal: whole numbers from 1 (minutes); give minutes: 1-00:30:00 is 1470",
        ),
        ({"time": 0}, "slurm.time is 0; legal: whole numbers from 1 (minutes)"),
        ({"nodes": True}, "slurm.nodes is True; legal: whole numbers from 1"),
        ({"partition": "a\n#SBATCH --x"}, "slurm.partition is"),
        ({"account": "100%j"}, "without spaces, quotes, '%' or line breaks"),
        ({"qos": "-rf"}, "slurm.qos is '-rf'"),
        ({"setup": ("a\nb",)}, "slurm.setup holds 'a\\nb'; legal: one line of text each"),
        ({"hold": "yes"}, "slurm.hold is 'yes'; legal: true, false"),
    ],
)
def test_values_that_no_cluster_takes_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as e:
        SlurmResources(**values)
    assert said in str(e.value)


def test_options_go_over_the_profile_and_the_profile_over_the_built_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "roadmap").mkdir()
    file = tmp_path / "roadmap" / "slurm.yaml"
    file.write_text("here:\n  partition: gpu\n  gpus-per-node: 8\n  setup: module load cuda\nthere:\n  time: 5\n")
    found = resources({"time": 60, "nodes": 2}, profile=None, cluster="here")
    assert (found.partition, found.gpus_per_node, found.time, found.nodes, found.setup, found.ranks) == (
        "gpu",
        8,
        60,
        2,
        ("module load cuda",),
        16,
    )
    assert resources({}, profile="there", cluster="here").time == 5
    assert resources({}, profile=None, cluster="elsewhere") == SlurmResources()
    with pytest.raises(RoadmapError, match="'ther' is not in .*; legal: here, there; did you mean 'there'"):
        resources({}, profile="ther", cluster=None)
    file.write_text("here:\n  partitions: gpu\n")
    with pytest.raises(ConfigError, match="here.partitions is unknown; legal: .*; did you mean 'partition'"):
        resources({}, profile=None, cluster="here")
    file.write_text("here: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(RoadmapError, match="cannot be read"):
        resources({}, profile=None, cluster="here")


def test_a_run_takes_whole_groups_on_fewer_nodes_or_is_refused() -> None:
    trial = make_trial(batch_size=512, group_size=64)  # 8 groups
    assert shape_of(trial, Resources(nodes=2, gpus_per_node=4)).nodes == 2
    assert shape_of(trial, Resources(nodes=4, gpus_per_node=4)).nodes == 2
    assert shape_of(trial, Resources(nodes=1, gpus_per_node=2)).ranks == 2
    with pytest.raises(ConfigError, match="8 groups of 64, which 3 ranks do not divide; legal: 1, 2, 4, 8 ranks"):
        shape_of(trial, Resources(gpus_per_node=3))


def test_gpu_hours_are_images_over_the_stated_rate_and_unknown_without_one() -> None:
    trial = make_trial(epochs=100)
    hours = GpuHours(taken={}, images_per_second=10.0).hours(trial, 1)
    assert hours == pytest.approx(round(1297 * 0.9) * 100 / 10 / 3600)
    assert GpuHours(taken={}).hours(trial, 1) is None


def test_gpu_hours_of_a_configuration_that_has_finished_are_what_it_took() -> None:
    trial = make_trial(epochs=100)
    known = GpuHours(taken={trial.configuration: 7200.0}, images_per_second=10.0)
    assert known.hours(trial, 4) == 2.0


def test_every_resource_is_an_option_or_belongs_to_the_profile_alone() -> None:
    of_the_profile = {"wckey", "restarts", "setup", "srun_args", "python"}
    assert set(RESOURCES) == set(SlurmResources.model_fields) - of_the_profile


def test_all_values_that_are_not_legal_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as e:
        SlurmResources(time=0, partitions="gpu", setup=("a\nb", " "), hold=1)
    faults = str(e.value).splitlines()
    assert [f.split()[0] for f in faults] == [
        "slurm.time",
        "slurm.hold",
        "slurm.setup",
        "slurm.setup",
        "slurm.partitions",
    ]
    assert "did you mean 'partition'" in faults[-1]


def test_resources_are_the_same_after_json_and_compare_by_value() -> None:
    shape = SlurmResources(nodes=2, setup=("module load cuda",), python="python3")
    assert SlurmResources.from_json(shape.to_json()) == shape
    assert len({shape, SlurmResources.from_json(shape.to_json()), shape.replace(nodes=3)}) == 2


def test_launchers_that_exclude_each_other_are_refused(command: Callable[..., Any]) -> None:
    command("run", "--local", "--slurm").refused("launchers local and slurm are both given", "legal: one of them")
    command("run", "--launcher", "slrum").refused("--launcher 'slrum' is unknown", "did you mean 'slurm'")
