"""The code as it was when a run was submitted: a copy that later edits do not reach. No torch."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import uuid
from pathlib import Path

from roadmap.runs.io import RunError, write_json
from roadmap.runs.provenance import git_state, package_versions

PACKAGE = Path(__file__).resolve().parents[1]
BESIDE = ("pyproject.toml", "constraints.txt")  # what decides, with the package, whether a checkout counts as changed


def live_code() -> Path:
    """The folder that this package is imported from."""
    return PACKAGE.parent


def take_snapshot(study: Path) -> Path:
    """Copy package and commit to <study>/code/<digest>/, once for the same content; returns that folder.

    Raises RunError where it cannot be written.
    """
    files = _files()
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    digest.update(str(git_state()["git_commit"]).encode())
    target = study / "code" / digest.hexdigest()[:16]
    if target.exists():
        return target
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        study.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        temporary.mkdir(mode=0o700)
        _as_checkout(temporary)
        for name, path in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, temporary / name)
        write_json(
            temporary / "snapshot.json", {**git_state(), "from": str(live_code()), "packages": package_versions()}
        )
        os.replace(temporary, target)
    except OSError as e:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():  # another submission was faster
            return target
        raise RunError(
            f"{target}, the snapshot of the code, cannot be written: {e.strerror}; legal: a writable folder with "
            "space; free some, or submit with --no-snapshot"
        ) from e
    return target


def _files() -> dict[str, Path]:
    """The package's files, and those beside it in a checkout, by their path below the copy."""
    sources = [p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    beside = [live_code() / name for name in BESIDE]
    files = [*sources, *(p for p in beside if p.is_file())]
    return {str(p.relative_to(live_code())): p for p in files}


def _as_checkout(folder: Path) -> None:
    """Let the copy answer `git rev-parse HEAD` and `git status` as the original does.

    It becomes a clone that shares the original's objects, without files; nothing where there is no
    git.
    """
    if git_state()["git_commit"] is None:
        return

    def git(*words: str) -> None:
        subprocess.run(["git", *words], capture_output=True, check=True, timeout=60)

    try:
        git("clone", "--quiet", "--shared", "--no-checkout", str(live_code()), str(folder))
        git("-C", str(folder), "read-tree", "HEAD")
        with (folder / ".git" / "info" / "exclude").open("a") as excluded:
            excluded.write("__pycache__/\n")  # which jobs write, and the copy has no .gitignore
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(folder / ".git", ignore_errors=True)
