"""The options of run and plan that say which trials are meant, as one typed value."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadmap.cli.parser import ladder_option, runs_option, set_option, whole
from roadmap.config.errors import RoadmapError

if TYPE_CHECKING:
    from roadmap.study.expand import Study
    from roadmap.study.plan import Plan

DEFAULT_STUDY = "digits"
LONGEST_NAME = 100
# Options that are fields of a plan, under the same name.
SAME_IN_PLAN = (
    "regime",
    "data",
    "data_title",
    "image_size",
    "num_classes",
    "validation",
    "decoder",
    "recipe",
    "epochs",
    "batch_size",
    "precision",
)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What was asked for on the command line; None, False and () where nothing was."""

    study: str | None = None
    digits: bool = False
    ladder: str | None = None
    design: str | None = None
    controls: tuple[str, ...] | None = None
    step: tuple[str, ...] = ()
    variant: str | None = None
    init: Path | None = None
    seeds: tuple[int, ...] | None = None
    regime: str | None = None
    data: str | None = None
    data_dir: Path | None = None
    data_title: str | None = None
    image_size: int | None = None
    num_classes: int | None = None
    validation: float | None = None
    decoder: str | None = None
    recipe: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    precision: str | None = None
    set: tuple[str, ...] = ()
    name: str | None = None
    runs: Path = Path("runs")

    @classmethod
    def of(cls, args: argparse.Namespace) -> StudyOptions:
        """The options of a parsed command line."""
        values: dict[str, Any] = {f.name: getattr(args, f.name) for f in fields(cls)}
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists})


def study_options(p: argparse.ArgumentParser) -> None:
    """Add them to a verb."""
    p.add_argument("--study", metavar="STUDY", help="a study's name, its file or its folder; digits unless given")
    p.add_argument(
        "--digits",
        action="store_true",
        help="the study as its file says it runs on the embedded digits, under the name STUDY-digits",
    )
    ladder_option(p)
    p.add_argument(
        "--design",
        metavar="NAME",
        help="ladder, single (with and without one --set), one-at-a-time, leave-one-out, factorial, grid or models",
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
        default=[],
        metavar="STEP",
        help="id or name; may be repeated; without it, the study's whole ladder",
    )
    p.add_argument(
        "--variant",
        metavar="NAME",
        help="a network instead of a step: a published variant such as convnextv2_atto, or any of timm's as timm/NAME",
    )
    p.add_argument("--seeds", type=whole(0), nargs="+", metavar="N", help="the study's own, or 0 with --step")
    set_option(p)
    p.add_argument("--name", help="the study's name: that of its folder below --runs")
    runs_option(p)
    _training_options(p)
    _data_options(p)


def _training_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--init",
        type=Path,
        metavar="FILE",
        help="initial weights of every run, in any public layout; with --variant the recipe is then fine-tuning",
    )
    p.add_argument("--recipe", help="the step's own unless given")
    p.add_argument("--epochs", type=whole(1), metavar="N", help="another number of epochs, schedules in proportion")
    p.add_argument(
        "--batch-size",
        type=whole(1),
        metavar="N",
        help="another global batch; the learning rate follows by the recipe's rule",
    )
    p.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), help="the recipe's own unless given")


def _data_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--regime", metavar="NAME", help="a regime of the ladder, such as cifar or micro")
    p.add_argument(
        "--data",
        metavar="NAME",
        help="digits, cifar10, imagenet, imagefolder, another of `run --list`, or a name for timm such as hfds/cifar10",
    )
    p.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set lies")
    p.add_argument("--data-title", metavar="TEXT", help="how tables name the data set")
    p.add_argument("--image-size", type=whole(1), metavar="PIXELS", help="the regime's own unless given")
    p.add_argument("--num-classes", type=whole(1), metavar="N", help="for data sets that do not tell")
    p.add_argument(
        "--validation", type=float, metavar="FRACTION", help="part of the training images set aside for choices"
    )
    p.add_argument(
        "--decoder",
        choices=("pillow", "torchvision", "torchcodec"),
        help="what decodes JPEG files; pillow unless given",
    )


def asked_study(options: StudyOptions) -> Study:
    """The study that the options describe.

    Raises RoadmapError for options that exclude each other.
    """
    from roadmap.study.expand import expand

    return expand(asked_plan(options), data_dir=options.data_dir)


def asked_plan(options: StudyOptions) -> Plan:
    """The plan of the study's file, with what the options say in its place."""
    from roadmap.study.file import read_plan
    from roadmap.study.find import find_study

    if options.step and options.variant:
        raise RoadmapError(
            f"--step {options.step[0]} and --variant {options.variant} are both given; "
            "legal: one of them; leave one out"
        )
    study = find_study(options.study or DEFAULT_STUDY, options.runs)
    base = read_plan(study.study_file(), digits=options.digits or study.digits)
    given = _given(options, base)
    if given and not options.study:
        given |= _another_question(base, options, given)
    if options.variant and not options.regime:
        given["regime"] = ""  # the ladder's first one, not the default study's small one
    given |= _asked_cells(options, given.get("design", base.design))
    given["set"] = (*base.set, *options.set)
    name = options.name or given.get("name", base.name)
    _check_name(name)
    question = given.get("question", base.question) or f"What does each step do ({name})?"
    return replace(base, **{**given, "name": name, "question": question})


def _given(options: StudyOptions, base: Plan) -> dict[str, Any]:
    """What replaces the file's own ladder, data, training and network."""
    given: dict[str, Any] = {name: getattr(options, name) for name in SAME_IN_PLAN}
    given["model"] = (options.variant,) if options.variant else None
    given["init"] = str(options.init) if options.init else None
    given = {name: value for name, value in given.items() if value is not None}
    if options.ladder in (None, base.ladder):
        return given
    from roadmap.ladder import find_ladder

    # Steps are of a ladder: the file's do not go with another one. Its regime may be there too.
    regime = base.regime if base.regime in find_ladder(options.ladder).regimes else ""
    own = {"steps": None, "through": None, "base": None, "regime": regime}
    return {"ladder": options.ladder, **own, **given}


def _another_question(base: Plan, options: StudyOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """Name and question of the default study where it is asked for in another way.

    It is another study then, so that no table mixes its runs with the default's.
    """
    parts = [given.get("ladder"), options.variant or given.get("regime", base.regime), options.data, options.recipe]
    if options.epochs:
        parts.append(f"{options.epochs}ep")
    if options.batch_size:
        parts.append(f"b{options.batch_size}")
    if options.init:
        parts.append("finetune")
    name = "-".join(part.replace("/", "-").replace(":", "-") for part in parts if part)
    changed: dict[str, Any] = {"name": name, "question": "", "controls": ()}
    if "regime" in given and not options.data:
        changed["data"] = None
    return changed


def _asked_cells(options: StudyOptions, design: str) -> dict[str, Any]:
    """Design, steps, seeds and controls; a step alone is one run without controls."""
    design = options.design or design
    cells: dict[str, Any] = {"design": design}
    if options.step and design != "ladder":
        if len(options.step) > 1:
            raise RoadmapError(
                f"--step is given {len(options.step)} times, but the study's design is {design}; "
                "legal: one step, as its base; leave the others out"
            )
        cells["base"] = options.step[0]
    elif options.step or options.variant:
        cells |= {"steps": options.step or None, "seeds": (0,), "controls": ()}
    if options.controls is not None:
        cells["controls"] = options.controls
    if options.seeds is not None:
        cells["seeds"] = options.seeds
    return cells


def _check_name(name: str) -> None:
    """Refuse a study's name that cannot be a folder's."""
    legal = all(c.isalnum() or c in "-_.+" for c in name)
    if not legal or not name or len(name) > LONGEST_NAME or name.startswith(("-", ".")):
        raise RoadmapError(
            f"study.name is {name[:120]!r}; legal: up to {LONGEST_NAME} letters, digits, '-', '_', '+' and '.', "
            "not starting with '-' or '.'; choose another --name"
        )
