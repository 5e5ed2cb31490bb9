"""The command line: parse, call, print. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from roadmap.cli.cluster_options import cluster_verbs, given_resources, launcher_options, resource_options
from roadmap.cli.results_options import QUESTIONS, question_verbs
from roadmap.config.errors import RoadmapError, listing, nearest
from roadmap.config.runtime import Runtime

USER_ERROR, STOPPED = 2, 130


class Parser(argparse.ArgumentParser):
    """argparse, with `_` and `-` the same in long options, and the nearest legal names for a mistyped one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.ArgumentDefaultsHelpFormatter, **kwargs})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = [_dashes(w) for w in (sys.argv[1:] if args is None else args)]
        known, unknown = self.parse_known_args(words, namespace)
        if unknown:
            verb = self._verb(known)
            options = [o for a in verb._actions for o in a.option_strings if o.startswith("--")]
            what = "option" if unknown[0].startswith("-") else "argument"
            verb.error(
                f"{what} {unknown[0]!r} is unknown; legal: {listing(sorted(options))}; {nearest(unknown[0].split('=')[0], options)}"
            )
        if "verb" in known and known.verb is None:
            self.error(f"VERB is missing; legal: {listing(VERBS)}; say one, such as `roadmap run --step 9`, or --help")
        return known

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's refusal of a value that is none of an option's choices, in the project's words."""
        if action.choices is not None and value not in action.choices:
            where = action.option_strings[0] if action.option_strings else action.metavar or action.dest
            raise argparse.ArgumentError(
                None,
                f"{where} {value!r} is unknown; legal: {listing(action.choices)}; {nearest(value, action.choices)}",
            )

    def _verb(self, known: argparse.Namespace) -> Parser:
        subparsers = next((a for a in self._actions if isinstance(a, argparse._SubParsersAction)), None)
        return subparsers.choices.get(known.verb, self) if subparsers else self

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(USER_ERROR)


def _dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value


def _whole(least: int) -> Callable[[str], int]:
    """The type of an option that counts something: an integer from `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"is {text!r}; legal: integers from {least}; give one of them")
        return value

    return parse


def parser() -> Parser:
    top = Parser(
        prog="roadmap",
        description="The ConvNeXt modernization roadmap as controlled, single-change experiments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    run = verbs.add_parser(
        "run",
        help="train steps of the ladder",
        description="Train one step (--step) or a whole study. A finished trial is not trained again.",
    )
    _study_options(run)
    _run_options(run)
    plan = verbs.add_parser("plan", help="what would run, without running it")
    _study_options(plan)
    launcher_options(plan)
    resource_options(plan)
    steps = verbs.add_parser("steps", help="the ladder as a table: change, parameters, GMACs, the paper's numbers")
    _ladder_options(steps)
    diff = verbs.add_parser("diff", help="what changes between two steps: spec, recipe, modules, parameters, MACs")
    diff.add_argument("a", metavar="A", help="a step's id or name")
    diff.add_argument("b", metavar="B", help="another one; --set applies to it")
    _ladder_options(diff)
    question_verbs(verbs)
    bench = verbs.add_parser("bench", help="what the harness costs on this machine, as ratios of interleaved pairs")
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    bench.add_argument(
        "--study", metavar="STUDY", help="instead: the latency of each network of a study, for its table"
    )
    bench.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="with --study: where run folders are"
    )
    bench.add_argument("--pairs", type=_whole(1), default=7, metavar="N")
    bench.add_argument("--out", type=Path, default=Path("results/bench"), metavar="DIR")
    predict = verbs.add_parser("predict", help="a trained network's answer for a folder of images, as CSV")
    _predict_options(predict)
    cluster_verbs(verbs)
    return top


def _ladder_options(p: Parser) -> None:
    p.add_argument("--regime", default="resnet50", help="resnet50, resnet200, cifar, micro or micro-deep")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TOGGLE=VALUE",
        help="one single change, such as kernel_size=9 or layer_scale=none",
    )
    p.add_argument("--json", action="store_true", help="machine-readable output")


def _study_options(p: Parser) -> None:
    p.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="study file, or the name of one that ships; the default study is experiments/digits.yaml",
    )
    p.add_argument(
        "--digits",
        action="store_true",
        help="the study as its file says it runs on the embedded digits, under the name STUDY-digits",
    )
    p.add_argument(
        "--design",
        metavar="NAME",
        help="ladder, single (the step with and without one --set), one-at-a-time, leave-one-out, factorial, grid or models",
    )
    p.add_argument(
        "--controls",
        nargs="+",
        metavar="WORD",
        help="negative controls: a-a (the same trial with other seeds), no-op (a toggle that does nothing)",
    )
    p.add_argument(
        "--step",
        action="append",
        metavar="STEP",
        help="id or name; may be repeated; without it, the study's whole ladder",
    )
    p.add_argument(
        "--variant",
        metavar="NAME",
        help="a network instead of a step: a published variant such as convnextv2_atto, or any of timm's as timm/NAME",
    )
    p.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="initial weights of every run: .safetensors or .pth in any public layout; with --variant the recipe is then fine-tuning",
    )
    p.add_argument("--seeds", type=_whole(0), nargs="+", metavar="N", help="the study's own, or 0 with --step")
    p.add_argument("--regime", help="resnet50, resnet200, cifar, micro or micro-deep")
    p.add_argument(
        "--data",
        help="digits, cifar10, cifar100, fashion-mnist, imagenet, imagefolder, or a name for timm such as hfds/cifar10",
    )
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set lies")
    p.add_argument("--data-title", metavar="TEXT", help="how tables name the data set")
    p.add_argument("--image-size", type=_whole(1), metavar="PIXELS", help="the regime's own unless given")
    p.add_argument("--num-classes", type=_whole(1), metavar="N", help="for data sets that do not tell")
    p.add_argument(
        "--validation", type=float, metavar="FRACTION", help="part of the training images set aside for choices"
    )
    p.add_argument("--recipe", help="the step's own unless given")
    p.add_argument("--epochs", type=_whole(1), metavar="N", help="another number of epochs, schedules in proportion")
    p.add_argument(
        "--batch-size", type=_whole(1), metavar="N", help="another global batch, the learning rate in proportion"
    )
    p.add_argument("--precision", choices=("auto", "fp32", "bf16"), help="the recipe's own unless given")
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TOGGLE=VALUE",
        help="one single change, such as kernel_size=9 or layer_scale=none",
    )
    p.add_argument("--name", help="the study's name: its folder below --out")
    p.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    p.add_argument("--json", action="store_true", help="machine-readable output")


def _run_options(p: Parser) -> None:
    launcher_options(p)
    p.add_argument(
        "--folder",
        type=Path,
        metavar="RUN",
        help="train one prepared run folder with the settings it was launched with, as a launcher's job does",
    )
    p.add_argument(
        "--jobs", type=_whole(1), default=1, metavar="N", help="runs side by side, each with cores / N threads"
    )
    p.add_argument("--workers", type=_whole(0), default=0, metavar="N", help="data-loading processes of each run")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--compile", action="store_true", help="torch.compile the network")
    p.add_argument("--no-channels-last", action="store_true", help="keep features in NCHW memory order")
    p.add_argument("--checkpoint-every", type=_whole(1), default=1, metavar="EPOCHS")
    p.add_argument("--download", action="store_true", help="let torchvision or timm fetch the data set")
    p.add_argument(
        "--force", action="store_true", help="train finished trials again; what they left moves to previous/"
    )
    p.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    p.add_argument("--list", action="store_true", help="list steps, regimes, recipes and data sets, and stop")
    p.add_argument("--yes", action="store_true", help="ask nothing")
    resource_options(p)


def _predict_options(p: Parser) -> None:
    p.add_argument(
        "network", type=Path, metavar="NETWORK", help="a finished run's folder, or a file that roadmap.save wrote"
    )
    p.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, subfolders included")
    p.add_argument(
        "--top-k",
        type=_whole(1),
        metavar="K",
        help="classes named for each image; five, or all where there are fewer, unless given",
    )
    p.add_argument("--image-size", type=_whole(1), metavar="PIXELS", help="for a file: 224 unless given")
    p.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    p.add_argument("--out", type=Path, metavar="FILE", help="where the CSV goes; standard output unless given")


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
        print(
            f"roadmap {args.verb}: error: {e.filename} cannot be used: {e.strerror}; legal: readable files and writable folders; check the path",
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        return STOPPED


def _study(args: argparse.Namespace) -> Any:
    """The study that the options describe."""
    from roadmap.study.expand import expand
    from roadmap.study.file import DEFAULT_STUDY, read_plan

    base = read_plan(_study_path(args.study) if args.study else DEFAULT_STUDY, digits=args.digits)
    given = {
        "regime": args.regime,
        "data": args.data,
        "data_title": args.data_title,
        "image_size": args.image_size,
        "num_classes": args.num_classes,
        "validation": args.validation,
        "recipe": args.recipe,
        "epochs": args.epochs,
        "batch_size": args.batch_size,
        "precision": args.precision,
        "model": (args.variant,) if args.variant else None,
        "init": str(args.init) if args.init else None,
    }
    given = {k: v for k, v in given.items() if v is not None}
    if given and not args.study:
        # Another question than the default study's: its own folder, so that no table mixes the two.
        words = [args.variant or given.get("regime", base.regime), given.get("data", ""), given.get("recipe", "")]
        words += [
            f"{args.epochs}ep" if args.epochs else "",
            f"b{args.batch_size}" if args.batch_size else "",
            "finetune" if args.init else "",
        ]
        base = replace(
            base,
            name="-".join(w.replace("/", "-") for w in words if w),
            question="",
            controls=(),
            data=None if "regime" in given else base.data,
        )
    if args.step and args.variant:
        raise RoadmapError(
            f"--step {args.step[0]} and --variant {args.variant} are both given; legal: one of them; leave one out"
        )
    if args.variant and not args.regime:
        given["regime"] = "resnet50"  # not the default study's small one: the variants are networks for 224 pixels
    if args.design:
        given["design"] = args.design
    if args.controls:
        given["controls"] = tuple(args.controls)
    if args.step and given.get("design", base.design) != "ladder":
        if len(args.step) > 1:
            raise RoadmapError(
                f"--step is given {len(args.step)} times, but the study's design is {base.design}; legal: one step, as its base; leave the others out"
            )
        given["base"] = args.step[0]
    elif args.step or args.variant:
        given |= {
            "steps": tuple(args.step) if args.step else None,
            "seeds": (0,),
            "controls": tuple(args.controls or ()),
        }
    if args.seeds:
        given["seeds"] = tuple(args.seeds)
    plan = replace(base, **given, set=(*base.set, *args.set))
    plan = replace(
        plan, name=args.name or plan.name, question=plan.question or f"What does each step do ({plan.name})?"
    )
    _check_name(plan.name)
    return expand(plan, data_dir=args.data_dir)


def _study_path(given: Path) -> Path:
    """The file as given, or the one of that name among the studies that ship."""
    from roadmap.study.file import EXPERIMENTS

    shipped = EXPERIMENTS / f"{given}.yaml"
    return shipped if not given.exists() and given.parent == Path() and shipped.exists() else given


def _check_name(name: str) -> None:
    """A study's name becomes a folder's."""
    if not name or len(name) > 100 or name.startswith(("-", ".")) or not all(c.isalnum() or c in "-_.+" for c in name):
        raise RoadmapError(
            f"study.name is {name[:120]!r}; legal: up to 100 letters, digits, '-', '_', '+' and '.', not starting with '-' or '.'; choose another --name"
        )


def run(args: argparse.Namespace) -> int:
    if args.list:
        return _list_names()
    if args.dry_run:
        return _dry_run(args)
    machine = Runtime(
        data_dir=args.data_dir,
        download=args.download,
        workers=args.workers,
        device=args.device,
        compile=args.compile,
        channels_last=not args.no_channels_last,
        checkpoint_every=args.checkpoint_every,
        init=args.init,
    )
    if args.folder:
        from roadmap.launch.prepared import run_prepared
        from roadmap.runs.folder import RunFolder

        return run_prepared(RunFolder(args.folder), machine)
    if args.launcher not in (None, "local"):
        return _submit(args, machine)
    from roadmap.cli.train import run_study

    return run_study(_study(args), machine, out=args.out, jobs=args.jobs, force=args.force, as_json=args.json)


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


def _dry_run(args: argparse.Namespace) -> int:
    """The plan, and with a cluster's launcher the scripts too."""
    return plan(args) if args.launcher in (None, "local") else _submit(args, Runtime())


def _submit(args: argparse.Namespace, machine: Runtime) -> int:
    from roadmap.cli.cluster import submit_study

    return submit_study(
        _study(args), machine, _order(args, yes=args.yes, dry_run=args.dry_run, force=args.force), out=args.out
    )


def plan(args: argparse.Namespace) -> int:
    if args.launcher not in (None, "local"):
        from roadmap.cli.cluster import show_submission_plan

        return show_submission_plan(_study(args), _order(args, dry_run=True), out=args.out)
    from roadmap.cli.train import show_plan

    return show_plan(_study(args), out=args.out, as_json=args.json)


def steps(args: argparse.Namespace) -> int:
    from roadmap.cli.train import show_steps

    return show_steps(args.regime, args.set, as_json=args.json)


def diff(args: argparse.Namespace) -> int:
    from roadmap.cli.train import show_diff

    return show_diff(args.a, args.b, args.regime, args.set, as_json=args.json)


def predict(args: argparse.Namespace) -> int:
    from roadmap.cli.train import write_predictions

    return write_predictions(
        args.network, args.images, top_k=args.top_k, image_size=args.image_size, device=args.device, out=args.out
    )


def bench(args: argparse.Namespace) -> int:
    from roadmap.cli.train import measure_latency, run_bench

    if args.study:
        return measure_latency(args.study, args.device, rounds=args.pairs, runs=args.runs)
    return run_bench(args.device, pairs=args.pairs, out=args.out)


def status(args: argparse.Namespace) -> int:
    from roadmap.cli.status import show_status

    return show_status(args.study, out=args.out, watch=args.watch, every=args.every, as_json=args.json)


def _selection(args: argparse.Namespace) -> Any:
    from roadmap.launch.selection import RunSelection

    return RunSelection(
        study=args.study,
        out=args.out,
        words=tuple(args.runs),
        steps=tuple(args.step),
        seeds=tuple(args.seed),
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


def _list_names() -> int:
    from roadmap.config.recipes import RECIPES
    from roadmap.data.registry import NAMED
    from roadmap.ladder.convnext import REGIMES, ladder

    print("steps")
    for s in ladder(side_steps=True):
        print(f"  {s.id or '':<3} {s.name:<24} {s.title}")
    for title, names in (("regimes", REGIMES), ("recipes", RECIPES), ("data sets", NAMED)):
        print(f"{title}\n  {listing(names)}")
    return 0


VERBS = {
    "run": run,
    "plan": plan,
    "steps": steps,
    "diff": diff,
    "predict": predict,
    "bench": bench,
    "status": status,
    "logs": logs,
    "cancel": cancel,
    "retry": retry,
    "preemption-test": preemption_test,
    **QUESTIONS,
}
