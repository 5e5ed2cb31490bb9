"""Options of the verbs that ask a study's records: report, check, power, attribute, watch; and what each calls. Cheap to import."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from roadmap.config.errors import RoadmapError

A_DAY = 86_400  # seconds


def question_verbs(verbs: Any) -> None:
    """Add them to the command line."""
    report = verbs.add_parser("report", help="tables, figures and page of a study, or of the paper")
    _study(report)
    report.add_argument("--paper", action="store_true", help="the paper's own ladder, from results/reference/")
    report.add_argument(
        "--regime", help="with --paper: resnet50 (the default) or resnet200; of a study with runs of several: which"
    )
    report.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two studies side by side on one page")
    report.add_argument("--serve", action="store_true", help="the page on loopback, made anew while runs go on")
    report.add_argument("--port", type=int, default=8765, help="with --serve; 0 for any free one")
    report.add_argument(
        "--every", type=float, default=5.0, metavar="SECONDS", help="with --serve: how old the page may be"
    )
    report.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write; results/<study> unless given, with --compare results/"
    )
    check = verbs.add_parser(
        "check", help="proof for each comparison that only the declared change differs; exit status 1 if not"
    )
    _study(check)
    power = verbs.add_parser("power", help="how many seeds a step needs to resolve a change")
    _study(power)
    power.add_argument(
        "--resolve",
        type=float,
        required=True,
        metavar="POINTS",
        help="the smallest change in top-1 that matters, such as 0.1",
    )
    power.add_argument(
        "--std", type=float, metavar="POINTS", help="standard deviation over seeds, instead of the study's own"
    )
    power.add_argument("--power", type=float, default=0.8, metavar="P", help="chance to resolve it")
    power.add_argument(
        "--comparisons",
        type=int,
        metavar="N",
        help="comparisons that Holm counts; those that the study plans, or 1 without a study",
    )
    attribute = verbs.add_parser(
        "attribute", help="Shapley values: each toggle's share of the gain over all orders that were trained"
    )
    _study(attribute)
    attribute.add_argument(
        "--with",
        dest="others",
        nargs="+",
        default=[],
        metavar="STUDY",
        help="whose runs count too; every study below --runs and results/ unless given",
    )
    watch = verbs.add_parser("watch", help="the ladder as it fills, in the terminal")
    _study(watch)
    watch.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="between two looks")


def _study(p: argparse.ArgumentParser) -> None:
    p.add_argument("study", nargs="?", help="a study's name, or its folder below runs/ or results/")
    p.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are")
    p.add_argument("--json", action="store_true", help="machine-readable output")


def _report(args: argparse.Namespace) -> int:
    from roadmap.cli import results as questions

    if not 1 <= args.every <= A_DAY:
        raise RoadmapError(
            f"--every is {args.every:g}; legal: seconds from 1 to {A_DAY}; a page takes about a second to make"
        )
    if args.serve:
        return questions.serve_report(args.study, runs=args.runs, port=args.port, every=args.every)
    if args.compare:
        return questions.write_comparison(*args.compare, runs=args.runs, out=args.out)
    return questions.write_report(
        args.study, paper=args.paper, regime=args.regime, runs=args.runs, out=args.out, as_json=args.json
    )


def _check(args: argparse.Namespace) -> int:
    from roadmap.cli.results import check_study

    return check_study(args.study, runs=args.runs, as_json=args.json)


def _power(args: argparse.Namespace) -> int:
    from roadmap.cli.results import show_power

    return show_power(
        args.study,
        resolve=args.resolve,
        std=args.std,
        power=args.power,
        comparisons=args.comparisons,
        runs=args.runs,
        as_json=args.json,
    )


def _attribute(args: argparse.Namespace) -> int:
    from roadmap.cli.results import show_attribution

    return show_attribution(args.study, others=args.others, runs=args.runs, as_json=args.json)


def _watch(args: argparse.Namespace) -> int:
    from roadmap.cli.results import watch_study

    if not 0.1 <= args.every <= A_DAY:
        raise RoadmapError(f"--every is {args.every:g}; legal: seconds from 0.1 to {A_DAY}; 2 is usual")
    return watch_study(args.study, runs=args.runs, every=args.every)


QUESTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "report": _report,
    "check": _check,
    "power": _power,
    "attribute": _attribute,
    "watch": _watch,
}
