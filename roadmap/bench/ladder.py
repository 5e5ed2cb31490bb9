"""Part `ladder`: steps of the embedded ladder in two slots beside one run after another, by the command itself.

Both train the same trials to their end on two cores, and leave records, which are compared. The
study is calibrated before each, so that what it was predicted to take stands beside what it took.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import roadmap
from roadmap.bench.pairs import Check, Finding, of_pairs, seconds
from roadmap.config.errors import RoadmapError
from roadmap.config.recipes import find_recipe
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.registry import resolve_data
from roadmap.ladder.convnext import convnext_spec
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FINISHED, Record
from roadmap.study.cost import PREDICTION
from roadmap.train.execute import execute

STEPS, EPOCHS, SEED = ("0", "2", "4", "6", "7", "9"), 2, 0
CORES, SLOTS = 2, 2
LADDERS = 5  # pairs at most: one takes a minute and a half on two cores that do nothing else
FURTHER = 2  # pairs of a further run for each that is asked for
ITERATIONS = 20  # that the calibration times of each network
STUDY, REGIME = "bench", "micro"
RECIPE = "digits-adamw"
ACCURACY = 5.0  # points between the means: threads sum in another order, and training amplifies it
METHOD = (
    f"`roadmap run` of {len(STEPS)} steps of the embedded ladder on the digits, {EPOCHS} epochs and one seed each, on "
    f"{CORES} cores: `--jobs {SLOTS}`, a thread each, beside `--jobs 1` with {CORES} threads; from the first run's "
    "begin to the last one's end, so without imports, and as whole commands. A further run's fixed cost is what a "
    "run of one epoch takes twice less what one of two epochs takes. Predicted is what `roadmap calibrate` said just "
    "before."
)
OWN_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command left: its wall time, the time from its first run's begin to its last one's end, its runs."""

    wall: float
    span: float
    records: Mapping[str, Record]
    folder: Path

    @property
    def outcomes(self) -> set[tuple[object, ...]]:
        """What must not depend on slots: which trials were trained, for how long and tested on what."""
        return {(r.fingerprint, r.status, r.iterations, r.test_images) for r in self.records.values()}

    @property
    def top1(self) -> float:
        """The mean accuracy of the runs, in percent."""
        return sum(r.metrics["top1"] or 0.0 for r in self.records.values()) / len(self.records)


def ladder(pairs: int, scratch: Path, steps: Sequence[str] = STEPS) -> Iterator[Finding]:
    """Compare slots with one run after another, and what calibration said with what the slots took."""
    pairs = min(pairs, LADDERS)
    yield from further_run(pairs, scratch)
    after, slots, predictions = [], [], []
    for _ in range(pairs):
        place = Path(tempfile.mkdtemp(dir=scratch))
        command(["calibrate", *_study(steps), "--jobs", str(SLOTS), "--iterations", str(ITERATIONS)], place)
        slots.append(run(["--jobs", str(SLOTS)], steps, place))
        predictions.append(_predicted(slots[-1].folder))
        after.append(run(["--jobs", "1"], steps, Path(tempfile.mkdtemp(dir=scratch))))
    yield from _same_results(slots, after, scratch)
    name, sides = f"{len(steps)} runs on {CORES} cores", ("one run after another", f"{SLOTS} slots")
    yield of_pairs("slots", name, *sides, [(a.span, s.span) for a, s in zip(after, slots, strict=True)])
    whole = [(a.wall, s.wall) for a, s in zip(after, slots, strict=True)]
    yield of_pairs("commands", f"{name}, imports included", *sides, whole)
    taken = [sum(r.wall_seconds or 0.0 for r in s.records.values()) for s in slots]
    pairs_of = list(zip(predictions, taken, strict=True))
    yield of_pairs("prediction", f"{name}, time of all runs", "predicted", "taken", pairs_of)


def _same_results(slots: Sequence[Ran], after: Sequence[Ran], scratch: Path) -> Iterator[Check]:
    expected = after[0].outcomes
    others = [ran.outcomes ^ expected for ran in (*slots, *after)]
    yield Check(name="trials, iterations or test images that differ", apart=max(map(len, others)), allowed=0)
    unfinished = [r for ran in (*slots, *after) for r in ran.records.values() if r.status != FINISHED]
    yield Check(name="runs that did not finish", apart=len(unfinished), allowed=0)
    mean = abs(slots[0].top1 - after[0].top1)
    yield Check(name="mean accuracy, points", apart=mean, allowed=ACCURACY)
    alone = run(["--jobs", "1"], STEPS[-1:], Path(tempfile.mkdtemp(dir=scratch)), threads=1)
    (name,) = alone.records
    expected_weights = _weights(alone, name)
    apart = sum(not _same_weights(_weights(ran, name), expected_weights) for ran in slots)
    yield Check(name="runs in a slot whose weights are not those of a run alone, to the bit", apart=apart, allowed=0)


def _weights(ran: Ran, name: str) -> dict[str, Tensor]:
    return load_file(ran.folder / name / "weights.safetensors")


def _same_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# Commands -------------------------------------------------------------------------------------------------------------


def _study(steps: Sequence[str]) -> list[str]:
    words = [word for step in steps for word in ("--step", step)]
    words += ["--regime", REGIME, "--data", "digits", "--recipe", RECIPE, "--epochs", str(EPOCHS)]
    return [*words, "--seeds", str(SEED), "--name", STUDY, "--device", "cpu"]


def run(words: Sequence[str], steps: Sequence[str], place: Path, *, threads: int | None = None) -> Ran:
    """Train the steps below `place`, by the command."""
    wall = seconds(partial(command, ["run", *_study(steps), *words, "--yes"], place, threads=threads))
    folder = place / "runs" / STUDY
    runs = [RunFolder(path.parent) for path in folder.glob("*/record.json")]
    ends = [(run.heartbeat() or {})["time"] for run in runs]
    records = {run.path.name: run.record() or Record(status="") for run in runs}
    begins = [end - (r.wall_seconds or 0.0) for end, r in zip(ends, records.values(), strict=True)]
    return Ran(wall=wall, span=max(ends) - min(begins), records=records, folder=folder)


def command(words: Sequence[str], place: Path, *, threads: int | None = None) -> None:
    """Call `roadmap` in a folder, on two cores; with as many threads as it chooses, unless they are given."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_THREADS}
    environment |= dict.fromkeys(OWN_THREADS, str(threads)) if threads else {}
    environment |= {"PYTHONPATH": str(Path(roadmap.__file__).parents[1]), "OMP_WAIT_POLICY": "PASSIVE"}
    two = sorted(os.sched_getaffinity(0))[:CORES]
    done = subprocess.run(
        [sys.executable, "-m", "roadmap", *words],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, two),
    )
    if done.returncode:
        last = (done.stderr.splitlines() or ["it said nothing"])[-1]
        raise RoadmapError(f"bench.ladder `roadmap {words[0]}` ended with {done.returncode}; legal: 0; {last}")


def _predicted(folder: Path) -> float:
    """Seconds of all runs together, as noted at their launch."""
    launches = json.loads((folder / PREDICTION).read_text())
    return float(sum(seconds for launch in launches for seconds in launch["seconds"].values()))


# A further run --------------------------------------------------------------------------------------------------------


def further_run(pairs: int, scratch: Path) -> Iterator[Finding]:
    """What a run costs beside its epochs, in a process that has trained one, with a slot's one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _train(1, scratch)
        times = [(_train(1, scratch), _train(2, scratch)) for _ in range(FURTHER * pairs)]
    finally:
        torch.set_num_threads(threads)
    sides = "a run of one epoch", "a run of two"
    yield of_pairs("further-run", "twice the one less the other", *sides, times, combine=_beside_epochs, unit="s")


def _train(epochs: int, scratch: Path) -> float:
    """Seconds of a whole run of so many epochs, from its folder to its record."""
    recipe = find_recipe(RECIPE).with_epochs(epochs)
    step = "separate-downsampling"
    model = convnext_spec(step, REGIME)
    trial = Trial(model=model, recipe=recipe, data=resolve_data("digits"), seed=SEED, regime=REGIME, step=step)

    def act() -> None:
        folder = RunFolder(Path(tempfile.mkdtemp(dir=scratch)) / trial.id)
        folder.prepare(trial)
        record = execute(folder, Runtime(device="cpu"))
        if record.status != FINISHED:
            raise RoadmapError(f"bench.ladder run {folder.path} is {record.status}; legal: finished; {record.error}")

    with contextlib.redirect_stderr(io.StringIO()):  # of its progress
        return seconds(act)


def _beside_epochs(one: float, two: float) -> float:
    return 2 * one - two
