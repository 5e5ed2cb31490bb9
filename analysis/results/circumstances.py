"""How a run was made, from its record: code, packages, hardware, arithmetic, ranks, batches, precision, data."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from analysis.study import Run
from roadmap.runs.record import NO_HARDWARE, Record

# What a record says of how it was made -> the declared settings that it follows from, where there are any.
CIRCUMSTANCES: Mapping[str, tuple[str, ...]] = {
    "git_commit": (),
    "git_dirty": (),
    "code_digest": (),
    "packages": (),
    "libraries": (),
    "hardware.device": (),
    "hardware.cpu": (),
    "hardware.threads": (),
    "world_size": (),
    "compile": (),
    "compile_mode": (),
    "channels_last": (),
    "device_batch": ("recipe.group_size",),
    "group_size": ("recipe.group_size",),
    "global_batch": ("recipe.batch_size",),
    "epochs": ("recipe.epochs",),
    "precision": ("recipe.precision",),
    "formats.autocast": ("recipe.precision",),
    "formats.residual": ("recipe.residual",),
    "formats.matmul": ("recipe.tf32",),
    "formats.convolution": ("recipe.tf32",),
    "formats.cudnn_benchmark": (),
    "formats.cudnn_deterministic": (),
    "formats.deterministic": (),
    "formats.cpu_capability": (),
    "formats.matmul_precision": ("recipe.tf32",),
    "formats.reduced_reduction": (),
    "formats.onednn": (),
    "formats.denormals": (),
    "formats.build": (),
    "formats.cuda": (),
    "formats.cudnn": (),
    "formats.driver": (),
    "formats.environment": (),
    "data_digest": ("data.digest",),
    "data_contents.train": ("data.name", "data.digest", "data.validation", "data.split_seed"),
    "data_contents.validation": ("data.name", "data.digest", "data.validation", "data.split_seed"),
    "data_contents.test": ("data.name", "data.digest"),
    "image_size": ("data.image_size",),
    "train_images": ("data.name", "data.digest", "data.validation"),
    "test_images": ("data.name", "data.digest"),
}
COMMIT, DIRTY, DIGEST = "git_commit", "git_dirty", "code_digest"
CODE = (COMMIT, DIRTY, DIGEST)
# Records of before say nothing of these: unknown, which is neither equal nor different.
YOUNGER = (
    "compile_mode",
    "formats.*",
    "libraries.*",
    "data_contents.*",
    "hardware.threads",
    "packages.scikit-learn",
    "packages.scipy",
    "packages.datasets",
)
# Why a difference in these is one in the outcome, for who has not read how.
REASONS: Mapping[str, str] = {
    "hardware.threads": "sums over another number of CPU threads are rounded otherwise",
    "data_contents.*": "images or labels are not the same, whatever the data set is called",
    "libraries.edited": "files of a library were changed after it was installed",
    "libraries.patched": "functions of a library were replaced by others",
    "libraries.startup": "a module that Python starts with may replace anything",
    "libraries.*": "other files under the same version",
    "formats.cpu_capability": "torch computes with other instructions",
    "formats.matmul_precision": "matrix products are rounded otherwise",
    "formats.environment": "variables that decide arithmetic",
    "formats.build": "torch was built otherwise",
    "formats.denormals": "the smallest numbers are kept or are zero",
}


@functools.cache  # of some dozens of names, asked of every run
def may_be_unsaid(name: str) -> bool:
    """Whether a record may say nothing of a circumstance, so that only two that do are compared."""
    return any(fnmatchcase(name, pattern) for pattern in YOUNGER)


def reason(name: str) -> str:
    """Why a difference in a circumstance is one in the outcome; empty where its name says it."""
    return next((why for pattern, why in REASONS.items() if fnmatchcase(name, pattern)), "")


def follows_from(name: str) -> tuple[str, ...]:
    """The declared settings that explain a difference in a circumstance."""
    of_all = name.rpartition(".")[0]  # of a package, of a kind of digest
    return CIRCUMSTANCES.get(name) or CIRCUMSTANCES.get(of_all, ())


def circumstances(record: Record) -> Iterator[tuple[str, Any]]:
    """(name, value) of all CIRCUMSTANCES, one for each package, library and split of the data."""
    hardware, formats = record.hardware.to_json(), record.formats.to_json() if record.formats else {}
    apart = {"hardware": hardware, "formats": formats}
    outer = {name.partition(".")[0] for name in CIRCUMSTANCES}
    said = {name: apart.get(name, getattr(record, name, None)) for name in outer}
    yield from _said(said, whole=True)


def of_attempt(attempt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of what an attempt before the last one says of itself."""
    yield from _said(attempt, whole=False)


def _said(said: Mapping[str, Any], *, whole: bool) -> Iterator[tuple[str, Any]]:
    """What a record (whole: what it does not hold is None) or an attempt says."""
    for name in CIRCUMSTANCES:
        outer, _, inner = name.partition(".")
        if not whole and outer not in said:
            continue
        value = said.get(outer)
        if name == "packages":
            yield from ((f"packages.{package}", version) for package, version in (value or {}).items())
        elif name == "libraries":
            yield from _libraries(value or {})
        elif outer == "data_contents":
            yield from _contents(name, (value or {}).get(inner))
        elif name == "hardware.threads":
            yield from _threads(value or {})
        elif may_be_unsaid(name):
            yield from _known(name, (value or {}).get(inner) if inner else value)
        else:
            yield name, value.get(inner) if inner and isinstance(value, Mapping) else value


def _libraries(said: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from ((f"libraries.{library}", digest) for library, digest in said.get("digests", {}).items())
    yield from ((f"libraries.{name}", said[name]) for name in ("edited", "patched", "startup") if name in said)


def _contents(name: str, digest: str | None) -> Iterator[tuple[str, Any]]:
    """The digest under its kind: two of unlike kinds are not compared."""
    if digest:
        kind, _, value = digest.rpartition(":")
        yield f"{name}.{kind}", value


def _threads(hardware: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The threads of a run on a CPU; beside a GPU they compute nothing that counts."""
    if hardware.get("device") == "cpu":
        yield from _known("hardware.threads", hardware.get("threads"))


def _known(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The pair, nothing where the writer did not know of it."""
    if value is not None:
        yield name, value


def all_circumstances(run: Run) -> Iterator[tuple[str, Any]]:
    """Those of the record and of every earlier attempt: a run resumed elsewhere is two things."""
    yield from circumstances(run.record)
    for attempt in run.record.earlier or ():
        yield from of_attempt(attempt)


def code_names(runs: Iterable[Run]) -> tuple[str, ...]:
    """By which of CODE these runs' code is compared: by the digest of what decides an outcome.

    Another commit with the same digest confounds nothing, nor do uncommitted changes. The commit
    counts only where a digest is missing, or where digests are of other files (other versions').
    """
    facts = [dict(circumstances(run.record)) for run in runs]
    facts += [dict(of_attempt(attempt)) for run in runs for attempt in run.record.earlier or ()]
    digests = [fact.get(DIGEST) for fact in facts if not fact.keys().isdisjoint(CODE)]
    kinds = {str(digest).rpartition(":")[0] for digest in digests}
    return (DIGEST,) if len(kinds) == 1 and None not in digests else (COMMIT, DIRTY)


def unsaid(runs: Sequence[Run]) -> tuple[str, ...]:
    """What a record does not hold and must, for a comparison to be proven."""
    records = [run.record for run in runs]
    named = [name for name in CIRCUMSTANCES if not _may_be_absent(name)]
    missing = [name for name in ("resolved", *named) if not _all_say(records, name)]
    told = [record.git_commit or record.code_digest for record in records]
    return (*missing, "code") if None in told else tuple(missing)


def _may_be_absent(name: str) -> bool:
    """A data set that its name says all of has no digest; the code is told by one of the three."""
    return name in (*CODE, "data_digest", "libraries") or may_be_unsaid(name)


def _all_say(records: Sequence[Record], name: str) -> bool:
    return all(_says(record, name) for record in records)


def _says(record: Record, name: str) -> bool:
    outer = name.partition(".")[0]
    if outer == "hardware":
        return record.hardware != NO_HARDWARE
    return getattr(record, outer) not in (None, {})
