"""What each verb of the command line does: reads the values, calls the parts, prints a table or JSON."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from roadmap.config.errors import ConfigError, RoadmapError, listing
from roadmap.config.fields import diff, parse_setting, show
from roadmap.config.model import ModelSpec, TimmSpec
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.ladder.convnext import Step, change_of, find_regime, find_step, ladder, resolve
from roadmap.launch.local import run_here, run_side_by_side
from roadmap.runs.folder import RunFolder, study_folder, write_study
from roadmap.runs.io import RunError
from roadmap.runs.record import DIVERGED, FAILED, FINISHED, INTERRUPTED
from roadmap.study.designs import step_recipe
from roadmap.study.expand import Study, images_to_train

RESULTS = Path("results")
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference"
STATE_WORDS = {
    FINISHED: "finished",
    FAILED: "failed: starts again",
    DIVERGED: "diverged: starts again",
    INTERRUPTED: "interrupted: goes on",
}


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def print_table(title: str, columns: list[str], rows: list[list[str]], *, left: int = 2) -> None:
    """A plain table; the first `left` columns aligned left. Wide enough not to cut where output is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(columns):
        table.add_column(Text(name), justify="left" if i < left else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


# run, plan ---------------------------------------------------------------------------------------------------------------


def state_of(folder: RunFolder) -> str:
    """A run's state from its folder: new, one of the record's, or started (no record yet)."""
    record = folder.record()
    if record:
        return str(record["status"])
    return "started" if (folder.path / "attempts.jsonl").exists() else "new"


def run_study(study: Study, machine: Runtime, *, out: Path, jobs: int, force: bool, as_json: bool) -> int:
    """Train what is not finished; print each record, or one line a run. Returns the exit status."""
    alone = jobs == 1 or len(study.trials) == 1
    machine = replace(machine, init=Path(study.init)) if study.init else machine
    refuse_before_training(study, machine)
    folder = write_study(out, study.name, study.question, study.regime, study.trials, header=study.header())
    folders = [RunFolder(folder / t.id) for t in study.trials]
    for run, trial in zip(folders, study.trials, strict=True):
        run.prepare(trial)
    done = [f for f in folders if state_of(f) == FINISHED and not force]
    todo = [f for f in folders if f not in done]
    for step, reason in study.undefined.items():
        print(f"{step}: not defined: {reason}", file=sys.stderr)
    if done:
        print(
            f"{len(done)} of {len(folders)} runs are finished already and are not trained again (--force does)",
            file=sys.stderr,
        )
    report = _Lines(len(todo), quiet=alone and len(todo) == 1)
    if todo:
        if alone:
            run_here(todo, machine, force=force, finished=report.finished)
        else:
            run_side_by_side(todo, machine, jobs=jobs, force=force, finished=report.finished)
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))):
        return 0  # one rank prints
    return _print_records(study, folders, as_json)


def refuse_before_training(study: Study, machine: Runtime) -> None:
    """What can be known without training: data sets that are missing or damaged, ranks that do not divide the batch."""
    from roadmap.data.registry import IMAGE_FOLDERS, training_images
    from roadmap.model.complexity import complexity

    if not study.trials:
        raise RoadmapError(
            f"study {study.name} has no trial that can be built; legal: at least one; see the reasons with `roadmap plan`: {listing(study.undefined.values())}"
        )
    data = study.trials[0].data
    if data.name != "digits":
        from roadmap.data.readers import check_images, open_data

        if data.name in IMAGE_FOLDERS:
            check_images(data, data_dir=machine.data_dir)
        else:
            open_data(data, data_dir=machine.data_dir, download=machine.download)
    images = training_images(data, data_dir=machine.data_dir)
    world = int(os.environ.get("WORLD_SIZE", 1))
    for spec, image_size in dict.fromkeys(
        (t.model, t.data.image_size) for t in study.trials if isinstance(t.model, TimmSpec)
    ):
        complexity(spec, image_size)  # that timm knows the name, and can build it at this size
    for trial in study.trials:
        trial.recipe.groups_per_rank(world)
        if images is not None and images < trial.recipe.batch_size:
            raise RoadmapError(
                f"data {data.name!r} has about {images} training images, fewer than one global batch of {trial.recipe.batch_size}; legal: at least one batch; choose a recipe with a smaller batch, or --batch-size"
            )


class _Lines:
    """One line for each run that ends."""

    def __init__(self, total: int, *, quiet: bool) -> None:
        self.total, self.quiet, self.count = total, quiet, 0

    def finished(self, folder: RunFolder, record: dict[str, Any]) -> None:
        self.count += 1
        if self.quiet:
            return
        top1 = record.get("top1")
        what = (
            f"top-1 {top1:.2f} %  {record['wall_seconds']:.1f} s"
            if record["status"] == FINISHED and top1 is not None
            else str(record.get("error") or "").splitlines()[0]
        )
        print(
            f"[{self.count}/{self.total}] {folder.path.name}  {record['status']}  {what}", file=sys.stderr, flush=True
        )


def _print_records(study: Study, folders: list[RunFolder], as_json: bool) -> int:
    records = [r for f in folders if (r := f.record())]
    if as_json:
        _print_json(records)
    elif len(folders) == 1 and records:
        _print_record(records[0], folders[0])
    else:
        finished = sum(r["status"] == FINISHED for r in records)
        where = folders[0].path.parent
        print(
            f"{study.name}: {finished} of {len(folders)} runs finished; table and figure: roadmap report {study.name if where.parent == Path('runs') else where}"
        )
    statuses = {r["status"] for r in records}
    if len(records) == len(folders) and statuses == {FINISHED}:
        return 0
    return 1 if statuses & {FAILED, DIVERGED} or INTERRUPTED not in statuses else 130


def _print_record(record: dict[str, Any], folder: RunFolder) -> None:
    """The record as name and value, one a line; the file has it as JSON."""
    for key, value in record.items():
        if value is None or value == "" or key == "resolved":
            continue
        text = (
            ", ".join(f"{k} {v}" for k, v in value.items())
            if isinstance(value, dict)
            else f"{value:,.2f}"
            if isinstance(value, float)
            else str(value)
        )
        print(f"{key:<20} {text}")
    print(f"{'record':<20} {folder.path / 'record.json'}")


def show_plan(study: Study, *, out: Path, as_json: bool) -> int:
    """The trials, what there is of each, and the time they would take where a finished run of the step tells."""
    folders = {t.id: RunFolder(study_folder(out, study.name) / t.id) for t in study.trials}
    states = {key: state_of(f) for key, f in folders.items()}
    rates = _measured_rates(folders)
    if as_json:
        trials = [{**t.to_json(), "state": states[t.id], "predicted_seconds": _seconds(t, rates)} for t in study.trials]
        _print_json(
            {
                "study": study.name,
                "question": study.question,
                "regime": study.regime,
                "trials": trials,
                "undefined": dict(study.undefined),
                "notes": list(study.notes),
            }
        )
        return 0
    rows = [
        [
            t.step,
            t.change,
            str(t.seed),
            t.recipe.name,
            str(t.recipe.epochs),
            STATE_WORDS.get(states[t.id], states[t.id]),
            _minutes(_seconds(t, rates)),
            t.id,
        ]
        for t in study.trials
    ]
    print_table(
        f"{study.name}: {study.question}",
        ["step", "change", "seed", "recipe", "epochs", "state", "minutes", "run"],
        rows,
    )
    for step, reason in study.undefined.items():
        print(f"{step}: not defined: {reason}")
    for note in study.notes:
        print(note)
    left = [t for t in study.trials if states[t.id] != FINISHED]
    known = [s for t in left if (s := _seconds(t, rates)) is not None]
    unknown = len(left) - len(known)
    total = f"{sum(known) / 60:.1f} minutes of one process" if known else "unknown"
    print(
        f"{len(study.trials)} trials: {len(study.trials) - len(left)} finished, {len(left)} to train; time left: {total}{f', and {unknown} of unknown length' if known and unknown else ''}"
    )
    return 0


def _measured_rates(folders: dict[str, RunFolder]) -> dict[tuple[str, str], float]:
    """Images per second of each (step, change) that a finished run has measured."""
    records = [r for f in folders.values() if (r := f.record()) and r["status"] == FINISHED]
    return {(r["step"], r["change"]): r["images_per_second"] for r in records}


def _seconds(trial: Trial, rates: dict[tuple[str, str], float]) -> float | None:
    images, rate = images_to_train(trial), rates.get((trial.step, trial.change))
    return images / rate if images and rate else None


def _minutes(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 60:.1f}"


# steps, diff -------------------------------------------------------------------------------------------------------------


def show_steps(regime: str, settings: list[str], *, as_json: bool) -> int:
    """The ladder, every network counted as it is built."""
    chosen = dict(parse_setting("ModelSpec", ModelSpec, text) for text in settings)
    rows = [_step_row(step, regime, chosen) for step in ladder(side_steps=True)]
    if as_json:
        _print_json(rows)
        return 0
    where = find_regime(regime)
    cells = [
        [
            r["id"] or "",
            r["name"],
            r["title"],
            "not defined" if r["params"] is None else f"{r['params']:,}",
            "" if r["macs"] is None else f"{r['macs'] / 1e9:.3f}",
            "" if r["paper_top1"] is None else f"{r['paper_top1']:.2f}",
            "" if r["paper_top1_std"] is None else f"{r['paper_top1_std']:.2f}",
            "" if r["paper_gflops"] is None else f"{r['paper_gflops']:.2f}",
        ]
        for r in rows
    ]
    print_table(
        f"{where.name}: {where.title}, {where.image_size} px",
        ["id", "step", "changes", "params", "GMACs", "paper top-1", "paper std", "paper GFLOPs"],
        cells,
        left=3,
    )
    if "layer_scale" not in chosen:
        print(
            "params: without LayerScale, as the paper's networks are usually counted; --set layer_scale=1e-6 counts it in"
        )
    for r in rows:
        if "not_defined" in r:
            print(f"{r['name']}: not defined: {r['not_defined']}")
    return 0


def _step_row(step: Step, regime: str, settings: dict[str, Any]) -> dict[str, Any]:
    """One step as data. `params` leaves LayerScale out unless a setting asks for it; `params_layer_scale` counts it in."""
    from roadmap.model.complexity import complexity

    where = find_regime(regime)
    paper = where.paper.get(step.name)
    row: dict[str, Any] = {
        "id": step.id,
        "name": step.name,
        "parent": step.parent,
        "on_path": step.on_path,
        "title": step.title,
        "group": step.group,
        "change": {k: _as_json(v) for k, v in change_of(step, where).items()},
        "params": None,
        "params_layer_scale": None,
        "macs": None,
        "paper_top1": paper.top1 if paper else None,
        "paper_top1_std": paper.std if paper else None,
        "paper_gflops": paper.gflops if paper else None,
        "source": step.source,
        "evidence": step.evidence,
    }
    try:
        plain_network = complexity(resolve(step.name, regime, **{"layer_scale": None, **settings}), where.image_size)
        scaled = complexity(resolve(step.name, regime, **{**settings, "layer_scale": 1e-6}), where.image_size)
    except ConfigError as e:
        return {**row, "not_defined": str(e)}
    return {**row, "params": plain_network.params, "params_layer_scale": scaled.params, "macs": plain_network.macs}


def show_diff(a: str, b: str, regime: str, settings: list[str], *, as_json: bool) -> int:
    """Everything in which two steps differ; the settings apply to the second."""
    from roadmap.model.module_diff import structure_diff

    first, second, where = find_step(a), find_step(b), find_regime(regime)
    chosen = dict(parse_setting("ModelSpec", ModelSpec, text) for text in settings)
    before, after = resolve(first.name, regime), resolve(second.name, regime, **chosen)
    structure = structure_diff(before, after, where.image_size)
    differences = {"spec": diff(before, after), "recipe": diff(step_recipe(first, regime), step_recipe(second, regime))}
    values: dict[str, Any] = {
        "a": first.name,
        "b": second.name,
        "regime": regime,
        "set": {k: show(v) for k, v in chosen.items()},
        **{kind: {k: [_as_json(x), _as_json(y)] for k, (x, y) in found.items()} for kind, found in differences.items()},
        "structure": {
            "roles": sorted(structure.roles),
            "added": structure.added,
            "removed": structure.removed,
            "changed": {k: list(v) for k, v in structure.changed.items()},
        },
        "params": [structure.before.params, structure.after.params],
        "macs": [structure.before.macs, structure.after.macs],
        "norms": [structure.before.norms, structure.after.norms],
        "activations": [structure.before.activations, structure.after.activations],
    }
    if as_json:
        _print_json(values)
        return 0
    rows = [[kind, name, show(x), show(y)] for kind, found in differences.items() for name, (x, y) in found.items()]
    rows += [
        ["counts", name, f"{values[name][0]:,}", f"{values[name][1]:,}"]
        for name in ("params", "macs", "norms", "activations")
    ]
    title = f"{first.name} -> {second.name}{' with ' + ' '.join(settings) if settings else ''} ({regime}, {where.image_size} px)"
    print_table(title, ["of", "what", first.name, second.name], rows)
    _print_structure(structure)
    return 0


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _print_structure(structure: Any) -> None:
    """Modules by role: how many of each, with one example."""
    from roadmap.model.module_diff import role

    rows: dict[tuple[str, str], list[str]] = {}
    for word, parts in (("added", structure.added), ("removed", structure.removed), ("changed", structure.changed)):
        for name, text in parts.items():
            rows.setdefault((word, role(name)), []).append(
                f"{name}: {' -> '.join(text) if isinstance(text, tuple) else text}"
            )
    if rows:
        print_table(
            "modules",
            ["", "role", "example", "count"],
            [[word, what, texts[0], str(len(texts))] for (word, what), texts in rows.items()],
            left=3,
        )


# bench, predict ----------------------------------------------------------------------------------------------------------


def run_bench(device: str, *, pairs: int, out: Path) -> int:
    """Time all pairs and write them to `out`/<cpu or gpu>.json, hardware named."""
    from dataclasses import asdict

    from roadmap.bench.subjects import all_pairs
    from roadmap.runs.io import write_json
    from roadmap.runs.provenance import git_state, package_versions
    from roadmap.train.distributed import Ranks
    from roadmap.train.execute import hardware

    ranks = Ranks.start(device)
    found = []
    for r in all_pairs(ranks.device.type, pairs):
        found.append(r)
        print(
            f"{r.a} / {r.b}: {r.ratio:.3f} ({r.low:.3f} to {r.high:.3f}, n = {r.pairs}); {r.name}; {r.a_seconds:.4f} s and {r.b_seconds:.4f} s",
            flush=True,
        )
    out.mkdir(parents=True, exist_ok=True)
    path = out / ("gpu.json" if ranks.device.type == "cuda" else "cpu.json")
    write_json(
        path,
        {
            "hardware": hardware(ranks).to_json(),
            "packages": package_versions(),
            **git_state(),
            "ratios": [asdict(r) for r in found],
        },
    )
    print(path)
    return 0


def measure_latency(name: str, device: str, *, rounds: int, runs: Path) -> int:
    """Time one image through each network of a study, in turn, and note it in the study's folder as latency.json, which its report shows."""
    from roadmap.bench.latency import latencies
    from roadmap.runs.io import read_json, write_json
    from roadmap.runs.provenance import git_state, package_versions
    from roadmap.train.distributed import Ranks
    from roadmap.train.execute import hardware

    folder = study_folder(runs, name)
    planned = read_json(folder / "study.json")
    if planned is None:
        raise RunError(
            f"study {name!r} has no run folders in {runs}; legal: a study that `roadmap run` made; check --runs"
        )
    ranks = Ranks.start(device)
    cells = {(t["step"], t["change"]): RunFolder(folder / t["id"]).trial() for t in planned["trials"]}
    found = latencies({json.dumps(key): trial for key, trial in cells.items()}, ranks.device, rounds=rounds)
    measured = [{"cell": json.loads(key), **values} for key, values in found.items()]
    write_json(
        folder / "latency.json",
        {
            "hardware": hardware(ranks).to_json(),
            "batch": 1,
            "precision": "fp32",
            "packages": package_versions(),
            **git_state(),
            "cells": measured,
        },
    )
    for line in measured:
        print(
            f"{' with '.join(filter(None, line['cell']))}: {line['ms']:.3f} ms ({line['low']:.3f} to {line['high']:.3f}, n = {line['rounds']})"
        )
    print(folder / "latency.json")
    return 0


def write_predictions(
    network: Path, images: Path, *, top_k: int | None, image_size: int | None, device: str, out: Path | None
) -> int:
    """One line of CSV an image, best classes first."""
    from roadmap.train.predict import images_below, predict, predictor, write_csv

    found = predictor(network, image_size=image_size)
    top_k = top_k or min(5, len(found.classes))
    if top_k > len(found.classes):
        raise RoadmapError(
            f"--top-k is {top_k}; legal: 1 to {len(found.classes)}, the network's classes; ask for fewer"
        )
    rows = predict(found, images_below(images), top_k=top_k, device=device)
    if out is None:
        write_csv(rows, top_k, sys.stdout)
        return 0
    with open(out, "w", newline="") as f:
        count = write_csv(rows, top_k, f)
    print(f"{count} images, {out}")
    return 0
