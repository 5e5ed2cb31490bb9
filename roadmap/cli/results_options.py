"""Options of the verbs that read records (report, check, power, attribute, watch), and their calls.

Imports nothing heavy, so that --help stays quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from roadmap.cli.parser import (
    every_option,
    json_option,
    ladder_option,
    metric_option,
    runs_option,
    study_argument,
)


def results_verbs(verbs: Any) -> None:
    """Add them to the command line."""
    _report_verb(verbs.add_parser("report", help="tables, figures and page of a study, or of the paper"))
    check = verbs.add_parser(
        "check", help="proof for each comparison that only the declared change differs; exit status 1 if not"
    )
    _study_options(check)
    _power_verb(verbs.add_parser("power", help="how many seeds a step needs to resolve a change"))
    attribute = verbs.add_parser(
        "attribute", help="Shapley values: each toggle's share of the gain over all orders that were trained"
    )
    _study_options(attribute)
    metric_option(attribute)
    attribute.add_argument(
        "--with",
        dest="others",
        nargs="+",
        default=[],
        metavar="STUDY",
        help="whose runs count too; every study with records unless given",
    )
    watch = verbs.add_parser("watch", help="the ladder as it fills, in the terminal")
    study_argument(watch)
    metric_option(watch)
    runs_option(watch)
    every_option(watch, 2.0, 0.1, "between two looks")


def _study_options(p: argparse.ArgumentParser) -> None:
    study_argument(p)
    runs_option(p)
    json_option(p)


def _report_verb(p: argparse.ArgumentParser) -> None:
    _study_options(p)
    metric_option(p)
    p.add_argument("--paper", action="store_true", help="the paper's own ladder, from results/reference/")
    ladder_option(p)
    p.add_argument(
        "--regime",
        metavar="NAME",
        help="with --paper and --transfer A paper: resnet50 (the default) or resnet200; "
        "of a study with runs of several: which",
    )
    p.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two studies side by side on one page")
    p.add_argument(
        "--transfer",
        nargs=2,
        metavar=("A", "B"),
        help="how well the effects of study A predict those of B, which may be `paper`: ranks, signs, decisions",
    )
    p.add_argument("--serve", action="store_true", help="the page on loopback, made anew while runs go on")
    p.add_argument("--port", type=int, default=8765, help="with --serve; 0 for any free one")
    every_option(p, 5.0, 1.0, "with --serve: how old the page may be")
    p.add_argument("--out", type=Path, metavar="DIR", help="where to write; RUNS/STUDY/report unless given")


def _power_verb(p: argparse.ArgumentParser) -> None:
    _study_options(p)
    metric_option(p)
    p.add_argument(
        "--resolve",
        type=float,
        required=True,
        metavar="POINTS",
        help="the smallest change that matters, such as 0.1",
    )
    p.add_argument(
        "--std", type=float, metavar="POINTS", help="standard deviation over seeds, instead of the study's own"
    )
    p.add_argument("--power", type=float, default=0.8, metavar="P", help="chance to resolve it")
    p.add_argument(
        "--comparisons",
        type=int,
        metavar="N",
        help="comparisons that Holm counts; those that the study plans, or 1 without a study",
    )


def _report(args: argparse.Namespace) -> int:
    from roadmap.cli import results

    if args.serve:
        return results.serve_report(args.study, metric=args.metric, runs=args.runs, port=args.port, every=args.every)
    if args.compare:
        return results.write_comparison(*args.compare, runs=args.runs, out=args.out)
    if args.transfer:
        return results.write_transfer(
            *args.transfer, regime=args.regime, metric=args.metric, runs=args.runs, out=args.out, as_json=args.json
        )
    if args.paper:
        return results.write_paper(
            regime=args.regime, ladder=args.ladder, runs=args.runs, out=args.out, as_json=args.json
        )
    return results.write_report(
        args.study, regime=args.regime, metric=args.metric, runs=args.runs, out=args.out, as_json=args.json
    )


def _check(args: argparse.Namespace) -> int:
    from roadmap.cli.results import check_study

    return check_study(args.study, runs=args.runs, as_json=args.json)


def _power(args: argparse.Namespace) -> int:
    from roadmap.cli.results import show_power

    return show_power(
        args.study,
        resolve=args.resolve,
        metric=args.metric,
        std=args.std,
        power=args.power,
        comparisons=args.comparisons,
        runs=args.runs,
        as_json=args.json,
    )


def _attribute(args: argparse.Namespace) -> int:
    from roadmap.cli.results import show_attribution

    return show_attribution(args.study, others=args.others, metric=args.metric, runs=args.runs, as_json=args.json)


def _watch(args: argparse.Namespace) -> int:
    from roadmap.cli.watch import watch_study

    return watch_study(args.study, metric=args.metric, runs=args.runs, every=args.every)


RESULTS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "report": _report,
    "check": _check,
    "power": _power,
    "attribute": _attribute,
    "watch": _watch,
}
