"""sanity: what is checked before a long study is begun, as one table with one exit status."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.load import open_study
from analysis.stats.band import Range, band, mean_of_first
from roadmap.api import Study
from roadmap.cli.console import print_json, print_table
from roadmap.config.errors import RoadmapError, listing
from roadmap.config.runtime import Runtime, cores, limit_threads
from roadmap.config.trial import Trial
from roadmap.launch.preflight import initial_weights, refuse_before_training
from roadmap.runs.folder import RunFolder
from roadmap.runs.record import FINISHED, Record
from roadmap.study.find import RECORDS, RESULTS

if TYPE_CHECKING:
    from roadmap.train.distributed import Ranks
    from roadmap.train.sanity import KnownNetwork


class Verdict(StrEnum):
    """What came of a check.

    missing: it needs a file that was not given. not checked: there is nothing to check by.
    """

    PASS = "pass"
    FAIL = "fail"
    MISSING = "missing"
    UNCHECKED = "not checked"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the table."""

    name: str
    expected: str
    got: str
    verdict: Verdict
    note: str = ""


def check_sanity(
    study: Study, runtime: Runtime, *, weights: Sequence[str], epochs: int, run: Path | None, as_json: bool
) -> int:
    """Check the known networks and the first epochs of the study's first step.

    Returns 0 where all that can be checked passes, 1 where something fails, lacks its file, or
    nothing can be checked.
    """
    runtime = initial_weights(study.content, runtime)
    refuse_before_training(study.content, runtime)
    for name, value in limit_threads(runtime.threads or cores()).items():
        os.environ.setdefault(name, value)
    from roadmap.train.distributed import Ranks

    ranks, trial = Ranks.start(runtime.device), study.trials[0]
    runtime = runtime.on(ranks.device.type)
    found = [*_known_networks(trial, runtime, ranks, weights), *_first_epochs(study, runtime, ranks, epochs, run)]
    if ranks.is_main:
        _show(study, found, as_json)
    verdicts = {check.verdict for check in found}
    return 0 if Verdict.PASS in verdicts and not verdicts & {Verdict.FAIL, Verdict.MISSING} else 1


def _show(study: Study, found: Sequence[Check], as_json: bool) -> None:
    if as_json:
        print_json([asdict(check) for check in found])
        return
    rows = [[check.name, check.expected, check.got, check.verdict] for check in found]
    print_table(f"{study.name}: before it is trained", ["check", "expected", "got", "verdict"], rows, left=1)
    for check in found:
        if check.note:
            print(f"{check.name}: {check.note}")


# Known networks -----------------------------------------------------------------------------------


def _known_networks(trial: Trial, runtime: Runtime, ranks: Ranks, given: Sequence[str]) -> Iterator[Check]:
    """Each network whose accuracy is printed for the trial's data."""
    from roadmap.train.sanity import KNOWN

    files = _given_files(given, [network.name for network in KNOWN])
    networks = [network for network in KNOWN if network.data == trial.data.name]
    if not networks:
        reason = f"their accuracy is printed for {KNOWN[0].data}; the study's images are {trial.data.name}"
        yield Check(name="known networks", expected="", got="", verdict=Verdict.UNCHECKED, note=reason)
    for network in networks:
        yield _known_network(network, files.get(network.name), trial, runtime, ranks)


def _known_network(network: KnownNetwork, file: Path | None, trial: Trial, runtime: Runtime, ranks: Ranks) -> Check:
    from roadmap.train.sanity import cached_weights, downloaded_weights, known_scores

    source: Path | Mapping[str, Any] | None = file or cached_weights(network)
    if source is None and runtime.download:
        source = downloaded_weights(network)
    name, expected = f"{network.name}, {network.weights}, top-1", f"{network.top1:g} ± {network.tolerance:g}"
    if source is None:
        note = f"no weights in torch's and timm's caches: --weights {network.name}=FILE, or --download"
        return Check(name=name, expected=expected, got="", verdict=Verdict.MISSING, note=note)
    scores = known_scores(network, source, trial.data, runtime, ranks)
    return Check(
        name=name,
        expected=expected,
        got=f"{scores.top1:.3f}",
        verdict=Verdict.PASS if network.passes(scores.top1) else Verdict.FAIL,
        note=f"{scores.images:,} images" + (f"; {source}" if isinstance(source, Path) else ""),
    )


def _given_files(given: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """--weights NETWORK=FILE by network. Raises RoadmapError for another network, or no file."""
    files = {}
    for text in given:
        name, _, file = text.partition("=")
        if name not in names or not Path(file).is_file():
            raise RoadmapError(
                f"--weights is {text!r}; legal: NETWORK=FILE with {listing(names)} and a file that exists; check both"
            )
        files[name] = Path(file)
    return files


# The first epochs ---------------------------------------------------------------------------------


def _first_epochs(study: Study, runtime: Runtime, ranks: Ranks, epochs: int, run: Path | None) -> Iterator[Check]:
    """The first epochs of a run beside those of the runs that the repository holds of its configuration."""
    from roadmap.train.sanity import WATCHED

    trial = RunFolder(run).trial() if run else study.trials[0]
    epochs = min(epochs, trial.recipe.epochs)
    label = f"{trial.step}, mean of epochs 1 to {epochs}"
    stored = _stored(study, trial)
    ranges = band([record.curves or {} for record in stored], WATCHED, epochs)
    if not ranges:
        where = RESULTS / study.name / RECORDS
        note = f"no stored band: {where} has not two finished runs of this configuration with their curves"
        yield Check(name=label, expected="", got="", verdict=Verdict.UNCHECKED, note=note)
        return
    fresh = replace(trial, seed=1 + max(record.seed or 0 for record in stored))
    lines = RunFolder(run).metrics() if run else _trained(fresh, runtime, ranks, epochs)
    for expected in ranges:
        yield _epoch_check(label, expected, [line.get(expected.curve) for line in lines], epochs)


def _epoch_check(label: str, expected: Range, curve: Sequence[float | None], epochs: int) -> Check:
    name, text = f"{label}, {expected.curve}", f"{expected.low:.3f} to {expected.high:.3f} ({expected.runs} runs)"
    value = mean_of_first(curve, epochs)
    if value is None:
        return Check(name=name, expected=text, got="", verdict=Verdict.UNCHECKED, note="the run has not noted it yet")
    verdict = Verdict.PASS if expected.holds(value) else Verdict.FAIL
    return Check(name=name, expected=text, got=f"{value:.3f}", verdict=verdict)


def _stored(study: Study, trial: Trial) -> list[Record]:
    """The committed records that differ from the trial in nothing but their seed."""
    folder = RESULTS / study.name
    if not (folder / RECORDS).exists():
        return []
    records = [run.record for run in open_study(folder).runs]
    return [r for r in records if r.status == FINISHED and r.configuration == trial.configuration and r.curves]


def _trained(trial: Trial, runtime: Runtime, ranks: Ranks, epochs: int) -> list[dict[str, float]]:
    from roadmap.train.sanity import first_epochs

    found = []
    for number, values in enumerate(first_epochs(trial, runtime, ranks, epochs), 1):
        found.append(values)
        if ranks.is_main:
            print(f"{trial.step}, seed {trial.seed}, epoch {number}: {json.dumps(values)}", file=sys.stderr, flush=True)
    return found
