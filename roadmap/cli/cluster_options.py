"""The command line's words for launchers: which one, what to ask of it, and which runs a verb is for.

Imports nothing heavy, so that --help stays quick.
"""

from __future__ import annotations

import argparse
from typing import Any

from roadmap.cli.parser import every_option, json_option, runs_option, study_argument, whole

LAUNCHER_NAMES = ("local", "slurm", "export")  # as in roadmap.launch.launchers, which a test compares

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

WORDS = {
    "partition": "where to queue",
    "account": "whom to charge",
    "qos": "quality of service",
    "mem": "memory of a node, such as 200G",
    "constraint": "features that nodes must have",
    "exclude": "nodes not to use",
    "nodelist": "nodes to use",
    "reservation": "a reservation to use",
    "gres": "sent instead of GPUs per node where a type is needed, such as gpu:a100:8",
}

COUNTS = {
    "time": ("MINUTES", "time limit of a run; it goes on after a requeue"),
    "nodes": ("N", "nodes of a run"),
    "gpus-per-node": ("N", "GPUs on each node, one rank each; 0: one rank on CPUs"),
    "cpus-per-task": ("N", "cores of a rank, its loader processes included"),
    "array-parallelism": ("N", "runs of an array at one time; no limit unless given"),
    "signal-seconds": ("SECONDS", "warning before the time limit"),
}

FLAGS = {
    "hold": "submit, but let nothing start before `scontrol release`",
    "exclusive": "share the nodes with no other job",
}


def _number(text: str) -> int | str:
    """An integer where it is one; anything else is refused with the profile's values, in their words."""
    return int(text) if text.strip().lstrip("-").isdigit() else text


def launcher_options(p: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Where runs go: --launcher NAME; --local and --slurm are short for two of them."""
    p.add_argument(
        "--launcher",
        action=_OneLauncher,
        choices=LAUNCHER_NAMES,
        default=default,
        help="local: here, until they end; slurm: submit and return; export: write what another scheduler starts",
    )
    for name in ("local", "slurm"):
        p.add_argument(
            f"--{name}",
            dest="launcher",
            action=_OneLauncher,
            nargs=0,
            const=name,
            default=argparse.SUPPRESS,
            help=f"--launcher {name}",
        )


class _OneLauncher(argparse.Action):
    """Stores a launcher's name, and refuses a second one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        name = self.const or values
        earlier = getattr(namespace, "launcher_given", name)
        if earlier != name:
            raise argparse.ArgumentError(
                None, f"launchers {earlier} and {name} are both given; legal: one of them; leave one out"
            )
        namespace.launcher = namespace.launcher_given = name


def resource_options(p: argparse.ArgumentParser) -> None:
    """Add what one run asks of a cluster; the profile, then built-in values stand for the rest."""
    g = p.add_argument_group(
        "with --launcher slurm or export", "defaults: the profile in ~/.config/roadmap/slurm.yaml, see docs/cluster.md"
    )
    g.add_argument("--profile", metavar="NAME", help="the profile to use; the cluster's own unless given")
    for name, help_text in WORDS.items():
        g.add_argument(f"--{name}", metavar="WORD", help=help_text)
    for name, (unit, help_text) in COUNTS.items():
        g.add_argument(f"--{name}", type=_number, metavar=unit, help=help_text)
    for name, help_text in FLAGS.items():
        g.add_argument(f"--{name}", action="store_true", default=None, help=help_text)
    g.add_argument(
        "--no-snapshot", action="store_true", help="run the code as it is when a job starts, not as it is now"
    )
    g.add_argument(
        "--images-per-second",
        type=float,
        metavar="N",
        help="of one GPU, to predict GPU-hours where nothing is measured",
    )


def given_resources(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by their names in a profile."""
    return {name: getattr(args, name) for name in RESOURCES if getattr(args, name) is not None}


def selection_options(p: argparse.ArgumentParser, *, failed: bool = True) -> None:
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
    every_option(status, 30.0, 0.0, "how old a cluster's answer may be; 30 at most")
    runs_option(status)
    json_option(status)
    logs = verbs.add_parser("logs", help="what a run has printed")
    selection_options(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on as the first run's log grows, until it ends")
    logs.add_argument("-n", "--lines", type=int, default=40, metavar="N", help="last lines of each; 0 for all")
    cancel = verbs.add_parser("cancel", help="take runs out of their launcher's queue")
    selection_options(cancel)
    cancel.add_argument("--yes", action="store_true", help="ask nothing")
    retry = verbs.add_parser("retry", help="launch again what failed, was cancelled or is missing, and nothing else")
    selection_options(retry)
    launcher_options(retry, default="slurm")
    resource_options(retry)
    retry.add_argument("--yes", action="store_true", help="ask nothing")
    json_option(retry)
    _preemption_test(verbs)


def _preemption_test(verbs: Any) -> None:
    test = verbs.add_parser("preemption-test", help="preempt a running job on purpose and see that nothing is lost")
    selection_options(test)
    test.add_argument(
        "--signal",
        choices=("USR2", "TERM"),
        default="USR2",
        help="USR2: the warning before the limit; TERM: what a preemption alone sends",
    )
    test.add_argument("--wait", type=float, default=900.0, metavar="SECONDS", help="how long each stage may take")
