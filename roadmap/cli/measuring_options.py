"""Options of bench, calibrate and sanity, but for those of the machine, which are the same as `run`'s.

Imports nothing heavy, so that --help stays quick.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from roadmap.bench.targets import PARTS, USUAL
from roadmap.cli.parser import device_option, json_option, runs_option, whole
from roadmap.cli.study_options import study_options

ITERATIONS, FIRST_EPOCHS = 50, 3


class _Study(argparse.Action):
    """Stores STUDY where --study does, and leaves what --study said where STUDY is not given."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        if values is not None:
            namespace.study = values


def _asked_study(p: argparse.ArgumentParser) -> None:
    study_options(p)
    text = "a study's name, its file or its folder; the same as --study"
    p.add_argument("study", nargs="?", action=_Study, default=argparse.SUPPRESS, metavar="STUDY", help=text)
    json_option(p)


def bench_options(p: argparse.ArgumentParser) -> None:
    """Add them to the verb: which parts, or a study instead, and how often each pair is timed."""
    parts = ", ".join(PARTS)
    text = f"what is measured: {parts}, or all; {' and '.join(USUAL)} unless given"
    p.add_argument("parts", nargs="*", metavar="PART", help=text)
    device_option(p)
    p.add_argument("--study", metavar="STUDY", help="instead: the latency of each network of a study, for its table")
    runs_option(p)
    text = "pairs that are timed; of short ones more, of whole ladders 5 at most"
    p.add_argument("--pairs", type=whole(1), default=7, metavar="N", help=text)
    p.add_argument("--out", type=Path, metavar="DIR", help="where the files and their page go; RUNS/bench unless given")
    json_option(p)


def calibrate_options(p: argparse.ArgumentParser) -> None:
    """Add them to the verb: the study as for `run`, and how long to measure."""
    _asked_study(p)
    text = "iterations that are timed of each network"
    p.add_argument("--iterations", type=whole(1), default=ITERATIONS, metavar="N", help=text)


def sanity_options(p: argparse.ArgumentParser) -> None:
    """Add them to the verb: the study as for `run`, and where weights and first epochs come from."""
    _asked_study(p)
    p.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="a known network's weights; found in the caches of torch and timm unless given; may be repeated",
    )
    p.add_argument(
        "--first-epochs",
        type=whole(1),
        default=FIRST_EPOCHS,
        metavar="N",
        help="epochs of the study's first step that are held against its earlier runs",
    )
    p.add_argument(
        "--run", type=Path, metavar="RUN", help="a run folder whose epochs are taken; trained anew unless given"
    )
