"""How a run is made, as its record holds it: code, libraries, machine, arithmetic, data, and earlier attempts.

`roadmap.train.execute` trains and adds how it ended; `analysis.results.circumstances` compares.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from roadmap.config.runtime import Runtime, cores
from roadmap.config.trial import Trial
from roadmap.model.complexity import complexity
from roadmap.runs.folder import RunFolder
from roadmap.runs.io import read_lines
from roadmap.runs.libraries import libraries
from roadmap.runs.provenance import git_state, package_versions
from roadmap.runs.record import Formats, Hardware, Record
from roadmap.train.distributed import Ranks
from roadmap.train.formats import formats_of, precision_of

DATA = "data.jsonl"  # what each attempt was trained on


def describe(folder: RunFolder, trial: Trial, runtime: Runtime, ranks: Ranks) -> Record:
    """What is known of a run before it ends."""
    size = complexity(trial.model, trial.data.image_size)
    return Record(
        status="",
        id=trial.id,
        fingerprint=trial.fingerprint,
        study=folder.path.parent.name,
        ladder=trial.ladder,
        regime=trial.regime,
        step=trial.step,
        change=trial.change,
        seed=trial.seed,
        init=trial.init,
        data=trial.data.title,
        data_name=trial.data.name,
        data_digest=trial.data.digest,
        recipe=trial.recipe.name,
        image_size=trial.data.image_size,
        params=size.params,
        macs=size.macs,
        epochs=trial.recipe.epochs,
        group_size=trial.recipe.group_size,
        global_batch=trial.recipe.batch_size,
        configuration=trial.configuration,
        workers=runtime.workers,
        hardware=hardware(ranks),
        attempts=len(read_lines(folder.path / "attempts.jsonl")[0]),
        # All that decides the outcome, as it was resolved: what two runs differ in is proven from their records alone.
        resolved=trial.identity(),
        earlier=earlier_circumstances(folder, ranks, trial, runtime),
        previous=previous_results(folder),
        **{**made_by(trial, ranks, runtime), "formats": _formats(trial, ranks)},
    )


def made_by(trial: Trial, ranks: Ranks, runtime: Runtime) -> dict[str, Any]:
    """By which code, packages and kernels an attempt computes, on how many ranks and images, and how precisely."""
    return {
        **git_state(),
        "packages": package_versions(),
        "libraries": libraries().to_json(),
        "world_size": ranks.world_size,
        **_network_settings(runtime),
        "device_batch": runtime.micro_batch or trial.recipe.group_size,
        "precision": precision_of(trial.recipe, ranks.device),
        "formats": _formats(trial, ranks).to_json(),
    }


def _network_settings(runtime: Runtime) -> dict[str, Any]:
    """The machine's settings by which the same network rounds otherwise."""
    mode = (runtime.compile_mode or "default") if runtime.compile else None
    return {"compile": runtime.compile, "compile_mode": mode, "channels_last": runtime.channels_last}


def _formats(trial: Trial, ranks: Ranks) -> Formats:
    return formats_of(trial.model, trial.recipe, trial.data.image_size, ranks.device)


def earlier_circumstances(
    folder: RunFolder, ranks: Ranks, trial: Trial, runtime: Runtime
) -> tuple[dict[str, Any], ...]:
    """What of the attempts before this one was not as it is now; each such attempt once.

    Other code, packages, hardware, compilation, ranks, micro-batch, precision or formats: a run that
    was resumed elsewhere is not of one piece.
    """
    now = {**made_by(trial, ranks, runtime), "hardware": hardware(ranks).to_json()}
    found: list[dict[str, Any]] = []
    for line in read_lines(folder.path / "attempts.jsonl")[0]:
        then = {name: {**_as_older(line, trial, runtime), **line}.get(name) for name in now}
        if _comparable(then) != _comparable(now) and then not in found:
            found.append(then)
    return tuple(found)


def _as_older(line: Mapping[str, Any], trial: Trial, runtime: Runtime) -> dict[str, Any]:
    """What an attempt's line says otherwise, or says not, that an older version wrote.

    Attempts that are older than micro-batches took one group at a time; what was compiled stood among
    the machine's settings.
    """
    machine = line.get("machine") or {}
    apart = {name: machine[name] for name in ("compile", "channels_last") if name in machine}
    return {"device_batch": trial.recipe.group_size, **_network_settings(runtime), **apart}


def _comparable(circumstances: Mapping[str, Any]) -> dict[str, Any]:
    """Circumstances without what of the hardware decides no outcome: cores, and threads beside a GPU."""
    hardware = circumstances["hardware"] or {}
    threads = hardware.get("threads") if hardware.get("device") == "cpu" else None
    return {**circumstances, "hardware": (hardware.get("device"), hardware.get("cpu"), threads)}


def earlier_data(folder: RunFolder, record: Record) -> tuple[dict[str, Any], ...]:
    """What attempts before the last one were trained on, where it was something else."""
    lines = read_lines(folder.path / DATA)[0]
    others = [line for line in lines if line != record.data_contents] if record.data_contents else []
    return tuple({"data_contents": line} for k, line in enumerate(others) if line not in others[:k])


def note_attempt(folder: RunFolder, trial: Trial, runtime: Runtime, ranks: Ranks) -> None:
    """One line for each start, so that a resume with another commit, machine or setting is on record."""
    start = {"time": timestamp(), "pid": os.getpid(), "from_iteration": folder.newest_checkpoint()}
    machine = {"machine": runtime.to_json(), "hardware": hardware(ranks).to_json()}
    folder.append("attempts.jsonl", {**start, **machine, **made_by(trial, ranks, runtime)})


def previous_results(folder: RunFolder) -> tuple[dict[str, Any], ...]:
    """How the runs ended that were set aside, oldest first: a trial that was drawn again says so."""
    numbered = [p for p in (folder.path / "previous").glob("*/record.json") if p.parent.name.isdecimal()]
    records = [RunFolder(p.parent).record() for p in sorted(numbered, key=lambda p: int(p.parent.name))]
    ended = [record for record in records if record]
    return tuple({"status": r.status, "metrics": dict(r.metrics), "finished_at": r.finished_at} for r in ended)


def measured_on(ranks: Ranks) -> dict[str, Any]:
    """Where a measurement was made, and with which code, as benchmarks keep it."""
    return {"hardware": hardware(ranks).to_json(), "packages": package_versions(), **git_state()}


def hardware(ranks: Ranks) -> Hardware:
    """What the run runs on, by names that mean something elsewhere."""
    device = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "cpu"
    return Hardware(device=device, cpu=_cpu_name(), cores=cores(), threads=torch.get_num_threads())


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def timestamp() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
