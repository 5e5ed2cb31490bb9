"""The command line's words for a cluster: what to ask Slurm for, and which runs a verb is for. Imports nothing else, so that --help stays quick."""

from __future__ import annotations

import argparse
from typing import Any

from roadmap.cli.parser import every_option, json_option, runs_option, study_argument, whole

RESOURCES = (
    "partition",
    "account",
    "qos",
    "time",
    "nodes",
    "gpus_per_node",
    "cpus_per_task",
    "mem",
    "constraint",
    "exclude",
    "nodelist",
    "reservation",
    "gres",
    "array_parallelism",
    "signal_seconds",
    "hold",
    "exclusive",
)


def _number(text: str) -> int | str:
    """An integer where it is one; anything else is refused with the profile's values, in their words."""
    return int(text) if text.strip().lstrip("-").isdigit() else text


def resource_options(p: argparse.ArgumentParser) -> None:
    """Of one run on the cluster; what is not given comes from the profile, then from the built-in values."""
    g = p.add_argument_group(
        "on a Slurm cluster", "defaults: the profile in ~/.config/roadmap/slurm.yaml, see docs/cluster.md"
    )
    g.add_argument("--profile", metavar="NAME", help="the profile to use; the cluster's own unless given")
    for name, help_text in (
        ("partition", "where to queue"),
        ("account", "whom to charge"),
        ("qos", "quality of service"),
        ("mem", "memory of a node, such as 200G"),
        ("constraint", "features that nodes must have"),
        ("exclude", "nodes not to use"),
        ("nodelist", "nodes to use"),
        ("reservation", "a reservation to use"),
        ("gres", "sent instead of GPUs per node where a type is needed, such as gpu:a100:8"),
    ):
        g.add_argument(f"--{name}", metavar="WORD", help=help_text)
    g.add_argument("--time", type=_number, metavar="MINUTES", help="time limit of a run; it goes on after a requeue")
    g.add_argument("--nodes", type=_number, metavar="N", help="nodes of a run")
    g.add_argument(
        "--gpus-per-node", type=_number, metavar="N", help="GPUs on each node, one rank each; 0: one rank on CPUs"
    )
    g.add_argument("--cpus-per-task", type=_number, metavar="N", help="cores of a rank, its loader processes included")
    g.add_argument(
        "--array-parallelism", type=_number, metavar="N", help="runs of an array at one time; no limit unless given"
    )
    g.add_argument("--signal-seconds", type=_number, metavar="SECONDS", help="warning before the time limit")
    g.add_argument(
        "--hold", action="store_true", default=None, help="submit, but let nothing start before `scontrol release`"
    )
    g.add_argument("--exclusive", action="store_true", default=None, help="share the nodes with no other job")
    g.add_argument("--no-freeze", action="store_true", help="run the code as it is when a job starts, not as it is now")
    g.add_argument(
        "--images-per-second",
        type=float,
        metavar="N",
        help="of one GPU, to predict GPU-hours where nothing is measured",
    )


def given_resources(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in RESOURCES if getattr(args, name) is not None}


def choice_options(p: argparse.ArgumentParser, *, failed: bool = True) -> None:
    """Which runs: words, or options that narrow a study's runs down."""
    p.add_argument("words", nargs="*", metavar="RUN", help="a run's id or its beginning, a job's id, or a step")
    p.add_argument("--step", action="append", default=[], metavar="STEP", help="runs of this step; may be repeated")
    p.add_argument("--seeds", type=whole(0), nargs="+", default=[], metavar="N", help="runs of these seeds")
    if failed:
        p.add_argument("--failed", action="store_true", help="runs that have ended without finishing")
    p.add_argument(
        "--study",
        metavar="STUDY",
        help="a study's name, its folder or its file; the one that changed last below --runs unless given",
    )
    runs_option(p)


def cluster_verbs(verbs: Any) -> None:
    """status, logs, cancel, retry, preemption-test."""
    status = verbs.add_parser("status", help="where each run of a study is")
    study_argument(status)
    status.add_argument("--watch", action="store_true", help="show it again until every run has ended")
    every_option(status, 30.0, 0.0, "how old Slurm's answer may be; 30 at most")
    runs_option(status)
    json_option(status)
    logs = verbs.add_parser("logs", help="what a run has printed")
    choice_options(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as the first run's log grows, until it ends")
    logs.add_argument("-n", "--lines", type=int, default=40, metavar="N", help="last lines of each; 0 for all")
    cancel = verbs.add_parser("cancel", help="take runs out of Slurm's queue")
    choice_options(cancel)
    cancel.add_argument("--yes", action="store_true", help="ask nothing")
    retry = verbs.add_parser("retry", help="submit again what failed, was cancelled or is missing, and nothing else")
    choice_options(retry)
    resource_options(retry)
    retry.add_argument("--yes", action="store_true", help="ask nothing")
    json_option(retry)
    test = verbs.add_parser("preemption-test", help="preempt a running job on purpose and see that nothing is lost")
    choice_options(test)
    test.add_argument(
        "--signal",
        choices=("USR2", "TERM"),
        default="USR2",
        help="USR2: the warning before the limit; TERM: what a preemption alone sends",
    )
    test.add_argument("--wait", type=float, default=900.0, metavar="SECONDS", help="how long each stage may take")
