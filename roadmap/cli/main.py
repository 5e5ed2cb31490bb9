"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.cli.cluster_options import cluster_verbs, given_resources, launcher_options, resource_options
from roadmap.cli.measuring_options import bench_options, calibrate_options, sanity_options
from roadmap.cli.parser import (
    USER_ERROR,
    Parser,
    device_option,
    jobs,
    json_option,
    ladder_option,
    minutes,
    set_option,
    whole,
)
from roadmap.cli.results_options import RESULTS, results_verbs
from roadmap.cli.study_options import StudyOptions, asked_study, study_options
from roadmap.config.errors import RoadmapError

if TYPE_CHECKING:
    from roadmap.api import Study
    from roadmap.config.runtime import Runtime

STOPPED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit status: 0, 1 a run failed, 2 refused, 130 stopped."""
    args = parser().parse_args(argv)
    try:
        return VERBS[args.verb](args)
    except RoadmapError as e:
        for line in str(e).splitlines():
            print(f"roadmap {args.verb}: error: {line}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as e:
        if e.filename is None:
            raise
        text = f"{e.filename} cannot be used: {e.strerror}; legal: readable files and writable folders; check the path"
        print(f"roadmap {args.verb}: error: {text}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return STOPPED


# Options ------------------------------------------------------------------------------------------


def parser() -> Parser:
    """The parser of all verbs."""
    top = Parser(
        prog="roadmap",
        description="The ConvNeXt modernization roadmap as controlled, single-change experiments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    _run_verb(
        verbs.add_parser(
            "run",
            help="train steps of the ladder",
            description="Train one step (--step) or a whole study. A finished trial is not trained again.",
        )
    )
    plan = verbs.add_parser("plan", help="what would run, without running it, and how long it would take")
    study_options(plan)
    plan.add_argument("--jobs", type=jobs, metavar="N", help="runs side by side, as for `run`")
    json_option(plan)
    launcher_options(plan)
    resource_options(plan)
    steps = verbs.add_parser("steps", help="the ladder as a table: change, parameters, GMACs, the paper's numbers")
    _step_options(steps)
    diff = verbs.add_parser("diff", help="what changes between two steps: spec, recipe, modules, parameters, MACs")
    diff.add_argument("a", metavar="A", help="a step's id or name")
    diff.add_argument("b", metavar="B", help="another one; --set applies to it")
    _step_options(diff)
    results_verbs(verbs)
    calibrate_verb = verbs.add_parser("calibrate", help="measure what a study's runs cost here, for `plan` to predict")
    calibrate_options(calibrate_verb)
    _machine_options(calibrate_verb)
    sanity_verb = verbs.add_parser("sanity", help="checks before a long study: known networks, the first epochs")
    sanity_options(sanity_verb)
    _machine_options(sanity_verb)
    bench_options(verbs.add_parser("bench", help="the harness beside its peers here, as ratios of interleaved pairs"))
    _predict_verb(verbs.add_parser("predict", help="a trained network's answer for a folder of images, as CSV"))
    verbs.add_parser("schema", help="the JSON Schema of study files, by which editors complete and check them")
    cluster_verbs(verbs)
    return top


def _run_verb(p: Parser) -> None:
    study_options(p)
    json_option(p)
    launcher_options(p)
    p.add_argument(
        "--folder",
        type=Path,
        metavar="RUN",
        help="train one prepared run folder with the settings it was launched with, as a launcher's job does",
    )
    _machine_options(p)
    _launch_options(p)


def _machine_options(p: argparse.ArgumentParser) -> None:
    """How the machine trains, as `_runtime` reads it."""
    p.add_argument(
        "--jobs",
        type=jobs,
        default=1,
        metavar="N",
        help="runs side by side, each with cores / N threads; auto: one a core, or what a GPU's memory holds",
    )
    p.add_argument(
        "--threads",
        type=whole(0),
        default=0,
        metavar="N",
        help="CPU threads of each run, one number for a study trained on CPUs; its share of the cores unless given",
    )
    p.add_argument(
        "--workers",
        type=whole(0),
        metavar="N",
        help="data-loading processes or threads of each rank; on a GPU its cores less one unless given, on a CPU none",
    )
    p.add_argument(
        "--loader",
        choices=("threads", "spdl"),
        default="threads",
        help="what decodes images that recipe.pipeline=tensor cannot hold in memory: own threads, or SPDL's",
    )
    device_option(p)
    p.add_argument("--compile", action="store_true", help="torch.compile the network")
    p.add_argument(
        "--compile-mode",
        choices=("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"),
        help="mode of torch.compile, with --compile; its default unless given",
    )
    p.add_argument(
        "--cuda-graph",
        choices=("auto", "off"),
        default="auto",
        help="on a GPU replay each iteration as one CUDA graph where it can be captured, or never",
    )
    p.add_argument("--no-channels-last", action="store_true", help="keep features in NCHW memory order")
    p.add_argument(
        "--micro-batch",
        type=whole(1),
        metavar="IMAGES",
        help="images of one forward pass: several groups at once, whose statistics stay apart; one group unless given",
    )
    p.add_argument(
        "--gradient-checkpointing", action="store_true", help="compute activations again backwards: less memory"
    )
    p.add_argument("--checkpoint-every", type=whole(1), default=1, metavar="EPOCHS", help="epochs between checkpoints")
    p.add_argument(
        "--checkpoint-minutes",
        type=minutes,
        default=10.0,
        metavar="MINUTES",
        help="besides, time between checkpoints",
    )
    p.add_argument(
        "--eval-every",
        type=whole(1),
        default=1,
        metavar="EPOCHS",
        help="epochs between evaluations; the last five are evaluated each",
    )
    p.add_argument(
        "--stop-hopeless",
        action="store_true",
        help="end a run that guesses after half of its epochs; it is shown as hopeless, and in no mean",
    )
    p.add_argument("--download", action="store_true", help="let torchvision or timm fetch the data set")


def _launch_options(p: Parser) -> None:
    p.add_argument(
        "--force", action="store_true", help="train finished trials again; what they left moves to previous/"
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    p.add_argument("--list", action="store_true", help="list steps, regimes, recipes and data sets, and stop")
    p.add_argument("--yes", action="store_true", help="ask nothing")
    resource_options(p)


def _step_options(p: Parser) -> None:
    ladder_option(p)
    p.add_argument("--regime", metavar="NAME", help="a regime of the ladder, such as micro; its first unless given")
    set_option(p)
    json_option(p)


def _predict_verb(p: Parser) -> None:
    p.add_argument(
        "network", type=Path, metavar="NETWORK", help="a finished run's folder, or a file that roadmap.save wrote"
    )
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, subfolders included")
    p.add_argument(
        "--top-k",
        type=whole(1),
        metavar="K",
        help="classes named for each image; five, or all where there are fewer, unless given",
    )
    p.add_argument("--image-size", type=whole(1), metavar="PIXELS", help="for a file: 224 unless given")
    device_option(p)
    p.add_argument("--out", type=Path, metavar="FILE", help="where the CSV goes; standard output unless given")


# Verbs --------------------------------------------------------------------------------------------


def _study(args: argparse.Namespace) -> Study:
    """The study that the options describe, with its run folders."""
    from roadmap.api import Study

    options = StudyOptions.of(args)
    return Study(content=asked_study(options), root=options.runs)


def run(args: argparse.Namespace) -> int:
    if args.list:
        from roadmap.cli.names import list_names

        return list_names(args.ladder)
    if args.dry_run:
        return _dry_run(args)
    if args.folder:
        from roadmap.launch.prepared import run_prepared
        from roadmap.runs.folder import RunFolder

        return run_prepared(RunFolder(args.folder), _runtime(args))
    if not _is_local(args):
        return _submit(args, _runtime(args))
    from roadmap.cli.train import run_study

    return run_study(_study(args), _runtime(args), jobs=args.jobs, force=args.force, as_json=args.json)


def _runtime(args: argparse.Namespace) -> Runtime:
    """Settings of the machine that trains, from the options."""
    from roadmap.config.runtime import Runtime

    return Runtime(
        data_dir=args.data_dir,
        download=args.download,
        workers=args.workers,
        loader=args.loader,
        device=args.device,
        threads=args.threads,
        compile=args.compile,
        compile_mode=args.compile_mode,
        cuda_graph=args.cuda_graph,
        channels_last=not args.no_channels_last,
        gradient_checkpointing=args.gradient_checkpointing,
        checkpoint_every=args.checkpoint_every,
        micro_batch=args.micro_batch,
        checkpoint_minutes=args.checkpoint_minutes,
        eval_every=args.eval_every,
        init=args.init,
        stop_hopeless=args.stop_hopeless,
    )


def plan(args: argparse.Namespace) -> int:
    if not _is_local(args):
        from roadmap.cli.cluster import show_submission_plan

        order = _order(args, dry_run=True)
        return show_submission_plan(_study(args).content, order, out=args.runs, data_dir=args.data_dir)
    from roadmap.cli.train import show_plan
    from roadmap.config.runtime import Runtime
    from roadmap.launch.local import slots_for

    return show_plan(_study(args), jobs=args.jobs and slots_for(args.jobs, Runtime()), as_json=args.json)


def calibrate(args: argparse.Namespace) -> int:
    from roadmap.cli.calibrate import calibrate_study
    from roadmap.launch.local import slots_for

    runtime = _runtime(args)
    at_once = slots_for(args.jobs, runtime)
    return calibrate_study(_study(args), runtime, jobs=at_once, iterations=args.iterations, as_json=args.json)


def sanity(args: argparse.Namespace) -> int:
    from roadmap.cli.sanity import check_sanity

    return check_sanity(
        _study(args), _runtime(args), weights=args.weights, epochs=args.first_epochs, run=args.run, as_json=args.json
    )


def steps(args: argparse.Namespace) -> int:
    from roadmap.cli.ladder import find_ladder_and_regime, show_steps

    return show_steps(*find_ladder_and_regime(args.ladder, args.regime), args.set, as_json=args.json)


def diff(args: argparse.Namespace) -> int:
    from roadmap.cli.ladder import find_ladder_and_regime, show_diff

    where = find_ladder_and_regime(args.ladder, args.regime)
    return show_diff(*where, args.a, args.b, args.set, as_json=args.json)


def bench(args: argparse.Namespace) -> int:
    from roadmap.cli.tools import measure_latency, run_bench

    if args.study and args.parts:
        part = args.parts[0]
        raise RoadmapError(
            f"bench PART {part!r} is given beside --study; legal: one of them; leave out --study, which "
            "measures latency"
        )
    if args.study:
        return measure_latency(args.study, args.device, rounds=args.pairs, runs=args.runs, as_json=args.json)
    out = args.out or args.runs / "bench"
    return run_bench(args.parts, args.device, pairs=args.pairs, out=out, as_json=args.json)


def predict(args: argparse.Namespace) -> int:
    from roadmap.cli.tools import write_predictions

    return write_predictions(
        args.network, args.images, top_k=args.top_k, image_size=args.image_size, device=args.device, out=args.out
    )


def schema(args: argparse.Namespace) -> int:
    from roadmap.cli.tools import show_schema

    return show_schema()


# Verbs for a cluster ------------------------------------------------------------------------------


def _order(args: argparse.Namespace, **more: Any) -> Any:
    from roadmap.cli.cluster import Order

    rate = args.images_per_second
    if rate is not None and not 0 < rate < 1e9:
        raise RoadmapError(
            f"--images-per-second is {rate:g}; legal: numbers above 0; give what one GPU trains in a second"
        )
    return Order(
        launcher=args.launcher,
        given=given_resources(args),
        profile=args.profile,
        snapshot=not args.no_snapshot,
        images_per_second=rate,
        as_json=args.json,
        **more,
    )


def _is_local(args: argparse.Namespace) -> bool:
    """Whether runs are trained by this process, not handed to a launcher that returns."""
    return args.launcher in (None, "local")


def _dry_run(args: argparse.Namespace) -> int:
    """Show the plan, and with a cluster's launcher the scripts too."""
    return plan(args) if _is_local(args) else _submit(args, _runtime(args))


def _submit(args: argparse.Namespace, machine: Runtime) -> int:
    from roadmap.cli.cluster import submit_study

    order = _order(args, yes=args.yes, dry_run=args.dry_run, force=args.force)
    return submit_study(_study(args).content, machine, order, out=args.runs)


def status(args: argparse.Namespace) -> int:
    from roadmap.cli.status import show_status

    return show_status(args.study, out=args.runs, watch=args.watch, every=args.every, as_json=args.json)


def _selection(args: argparse.Namespace) -> Any:
    from roadmap.launch.selection import RunSelection

    return RunSelection(
        study=args.study,
        out=args.runs,
        words=tuple(args.words),
        steps=tuple(args.step),
        seeds=tuple(args.seeds),
        failed=args.failed,
    )


def logs(args: argparse.Namespace) -> int:
    from roadmap.cli.status import show_logs

    return show_logs(_selection(args), follow=args.follow, lines=args.lines)


def cancel(args: argparse.Namespace) -> int:
    from roadmap.cli.cluster import cancel_runs

    return cancel_runs(_selection(args), yes=args.yes)


def retry(args: argparse.Namespace) -> int:
    from roadmap.cli.cluster import retry_runs

    return retry_runs(_selection(args), _order(args, yes=args.yes))


def preemption_test(args: argparse.Namespace) -> int:
    from roadmap.cli.cluster import preemption_test as run_test

    return run_test(_selection(args), wait=args.wait, signal_name=args.signal)


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run,
    "plan": plan,
    "calibrate": calibrate,
    "sanity": sanity,
    "steps": steps,
    "diff": diff,
    "predict": predict,
    "bench": bench,
    "schema": schema,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "retry": retry,
    "preemption-test": preemption_test,
    **RESULTS,
}
