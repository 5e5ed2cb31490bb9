"""How a run was made, from its record: code, packages, hardware, ranks, batches, precision, data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from analysis.study import Run
from roadmap.runs.record import NO_HARDWARE, Record

# What a record says of how it was made -> the declared setting that it follows from, where there is one.
CIRCUMSTANCES: Mapping[str, str] = {
    "git_commit": "",
    "git_dirty": "",
    "code_digest": "",
    "packages": "",
    "hardware.device": "",
    "hardware.cpu": "",
    "world_size": "",
    "compile": "",
    "compile_mode": "",
    "channels_last": "",
    "device_batch": "recipe.group_size",
    "group_size": "recipe.group_size",
    "global_batch": "recipe.batch_size",
    "epochs": "recipe.epochs",
    "precision": "recipe.precision",
    "formats.autocast": "recipe.precision",
    "formats.residual": "recipe.residual",
    "formats.matmul": "recipe.tf32",
    "formats.convolution": "recipe.tf32",
    "formats.cudnn_benchmark": "",
    "formats.cudnn_deterministic": "",
    "formats.deterministic": "",
    "formats.cpu_capability": "",
    "data_digest": "data.digest",
    "image_size": "data.image_size",
    "train_images": "data.name",
    "test_images": "data.name",
}
COMMIT, DIRTY, DIGEST = "git_commit", "git_dirty", "code_digest"
CODE = (COMMIT, DIRTY, DIGEST)
# Records of before say nothing of these: unknown, which is neither equal nor different.
YOUNGER = ("compile_mode", *(name for name in CIRCUMSTANCES if name.startswith("formats.")))
# A data set that its name says all of has no digest; the code is told by one of the three.
MAY_BE_ABSENT = (*CODE, "data_digest", *YOUNGER)


def circumstances(record: Record) -> Iterator[tuple[str, Any]]:
    """(name, value) of all CIRCUMSTANCES, one for each package."""
    for name in CIRCUMSTANCES:
        if name == "packages":
            yield from _packages(record.packages)
        elif name.startswith("hardware."):
            yield name, getattr(record.hardware, name.partition(".")[2])
        elif name == "compile_mode":
            yield from _known(name, record.compile_mode)
        elif name in YOUNGER:
            yield from _known(name, getattr(record.formats, name.partition(".")[2], None))
        else:
            yield name, getattr(record, name)


def of_attempt(attempt: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of what an attempt before the last one says of itself."""
    for name in CIRCUMSTANCES:
        outer, _, inner = name.partition(".")
        if outer not in attempt:
            continue
        value = attempt[outer]
        if name == "packages":
            yield from _packages(value)
        elif name in YOUNGER:
            yield from _known(name, (value or {}).get(inner))
        else:
            yield name, value.get(inner) if inner and isinstance(value, dict) else value


def _packages(packages: Mapping[str, str] | None) -> Iterator[tuple[str, str]]:
    yield from ((f"packages.{name}", version) for name, version in (packages or {}).items())


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
    named = [name for name in CIRCUMSTANCES if name not in MAY_BE_ABSENT]
    missing = [name for name in ("resolved", *named) if not _all_say(records, name)]
    told = [record.git_commit or record.code_digest for record in records]
    return (*missing, "code") if None in told else tuple(missing)


def _all_say(records: Sequence[Record], name: str) -> bool:
    return all(_says(record, name) for record in records)


def _says(record: Record, name: str) -> bool:
    outer = name.partition(".")[0]
    if outer == "hardware":
        return record.hardware != NO_HARDWARE
    return getattr(record, outer) not in (None, {})
