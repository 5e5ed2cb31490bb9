"""Finding a study by what a user calls it: one rule for every verb and for notebooks.

A study is named by its name (`kernel-digits`), by its folder (`runs/kernel-digits`,
`results/kernel-digits`) or by its study file (`experiments/kernel.yaml`, or a path of one's own). A
study that ships and runs on the embedded digits goes by `STUDY-digits`, the name that its run
folder has.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roadmap.config.errors import RoadmapError, listing, nearest
from roadmap.runs.io import RunError
from roadmap.study.file import DIGITS, EXPERIMENTS, read_plan

RUNS, RESULTS = Path("runs"), Path("results")
LAUNCHERS = ("local", "slurm", "export")  # their folders below a study's; as in roadmap.launch.launchers
STUDY_JSON, RECORDS = "study.json", "records.jsonl"


@dataclass(frozen=True, kw_only=True)
class FoundStudy:
    """Where the parts of a study are; None for a part that there is none of.

    file: the study file; digits: whether it is meant at the size of the embedded data. folder: the
    run folders, with study.json. results: what was committed of it, with records.jsonl. runs: the
    folder in which run folders were looked for.
    """

    name: str
    file: Path | None = None
    digits: bool = False
    folder: Path | None = None
    results: Path | None = None
    runs: Path = RUNS

    def study_file(self) -> Path:
        """The study file. Raises RoadmapError where there is none."""
        if self.file is not None:
            return self.file
        names = sorted(_shipped())
        raise RoadmapError(
            f"study {self.name!r} has no study file; legal: {listing(names)}, or a path; {nearest(self.name, names)}"
        )

    def run_folder(self) -> Path:
        """The folder of its runs. Raises RunError where it has none."""
        if self.folder is not None:
            return self.folder
        names = _with_runs(self.runs)
        raise RunError(
            f"study {self.name!r} has no run folders in {self.runs / self.name}; "
            f"legal: {listing(names) or 'none yet'}; {self._advice(names)}"
        )

    def records_folder(self) -> Path:
        """The folder of its runs, else its committed results.

        Raises RunError where it has neither.
        """
        if folder := self.folder or self.results:
            return folder
        names = sorted({*_with_runs(self.runs), *_with_results()})
        raise RunError(
            f"study {self.name!r} has no records in {self.runs / self.name} or {RESULTS / self.name}; "
            f"legal: {listing(names) or 'none yet'}; {self._advice(names)}"
        )

    def _advice(self, names: list[str]) -> str:
        """What to do where a part of the study is missing."""
        if self.results is not None:
            return f"its runs have ended, see `roadmap report {self.name}`, or check --runs"
        if self.file is None:
            return nearest(self.name, names)
        name = self.name if self.file.parent == EXPERIMENTS else self.file
        return f"train it with `roadmap run --study {name}`, or check --runs"


def find_study(name: str | Path | None, runs: Path = RUNS) -> FoundStudy:
    """The study of that name, folder or file; without one, that whose run folders changed last.

    Raises RunError.
    """
    if name is None:
        return _latest(runs)
    path = Path(name)
    if path.is_file():
        return _of_name(read_plan(path).name, runs, file=path)
    if (path / STUDY_JSON).exists():
        return _of_name(path.resolve().name, runs, folder=path)
    if (path / RECORDS).exists():
        return _of_name(path.resolve().name, runs, results=path)
    found = _of_name(str(name), runs)
    if found.file or found.folder or found.results:
        return found
    names = study_names(runs)
    raise RunError(
        f"study {str(name)!r} is unknown: there is no such file or folder, nor one below {runs}, {RESULTS} or "
        f"{EXPERIMENTS.name}; legal: {listing(names) or 'none yet'}; {nearest(name, names)}"
    )


def study_names(runs: Path = RUNS) -> list[str]:
    """Every study with a study file that ships, run folders or committed results."""
    return sorted({*_with_runs(runs), *_with_results(), *_shipped()})


def studies_with_records(runs: Path = RUNS) -> list[str]:
    """Every study with run folders or committed results."""
    return sorted({*_with_runs(runs), *_with_results()})


def _of_name(
    name: str, runs: Path, *, file: Path | None = None, folder: Path | None = None, results: Path | None = None
) -> FoundStudy:
    """What there is of a study, looked up by its name where it is not given."""
    digits = False
    if file is None:
        file, digits = _shipped_file(name)
    if folder is None and (runs / name / STUDY_JSON).exists():
        folder = runs / name
    if results is None and (RESULTS / name / RECORDS).exists():
        results = RESULTS / name
    return FoundStudy(name=name, file=file, digits=digits, folder=folder, results=results, runs=runs)


def _shipped_file(name: str) -> tuple[Path | None, bool]:
    """The file of a study that ships, and whether its name asks for the embedded digits."""
    files = _shipped()
    if name in files:
        return files[name], False
    base = name.removesuffix(f"-{DIGITS}")
    return (files[base], True) if base != name and base in files else (None, False)


def _latest(runs: Path) -> FoundStudy:
    folders = [p.parent for p in runs.glob(f"*/{STUDY_JSON}")]
    if not folders:
        names = studies_with_records(runs)
        raise RunError(
            f"STUDY is missing, and there are no run folders below {runs}; legal: {listing(names) or 'none yet'}; "
            "name one, check --runs, or train one with `roadmap run`"
        )
    latest = max(folders, key=_changed)
    return _of_name(latest.name, runs, folder=latest)


def _changed(folder: Path) -> float:
    """When trials of a study were last planned or submitted, in seconds of the epoch."""
    places = (folder / STUDY_JSON, *(folder / name for name in LAUNCHERS))
    return max(place.stat().st_mtime for place in places if place.exists())


def _with_runs(runs: Path) -> list[str]:
    return sorted(p.parent.name for p in runs.glob(f"*/{STUDY_JSON}"))


def _with_results() -> list[str]:
    return sorted(p.parent.name for p in RESULTS.glob(f"*/{RECORDS}"))


def _shipped() -> dict[str, Path]:
    """The study files that ship, by name."""
    return {p.stem: p for p in sorted(EXPERIMENTS.glob("*.yaml"))}
