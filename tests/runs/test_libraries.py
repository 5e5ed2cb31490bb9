"""Libraries are told as they are: their files, and what stands in memory in their place."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import roadmap.train.execute  # noqa: F401  # a training has imported what it needs
from roadmap.runs.libraries import FUNCTIONS, LIBRARIES, edited_files, libraries, listed_files, patched


def test_a_plain_installation_has_a_digest_for_each_library_and_nothing_odd() -> None:
    found = libraries()
    assert set(found.digests) == set(LIBRARIES)
    assert not any(digest.startswith("sources:") for digest in found.digests.values())
    assert (found.edited, found.patched) == ({}, {})
    assert libraries() == found


def test_every_function_that_is_looked_at_exists_here() -> None:
    import importlib

    for name in FUNCTIONS:
        module, _, qualified = name.partition(":")
        functools.reduce(getattr, qualified.split("."), importlib.import_module(module))


def test_a_further_run_in_the_process_costs_nothing() -> None:
    libraries()
    began = time.process_time()
    libraries()
    assert time.process_time() - began < 0.05


def plain_loss(*args: Any, **kwargs: Any) -> Any:
    return 0.5 * F.nll_loss(*args, **kwargs)


@functools.wraps(F.cross_entropy)
def wrapped_loss(*args: Any, **kwargs: Any) -> Any:
    return 0.5 * wrapped_loss.__wrapped__(*args, **kwargs)


@pytest.mark.parametrize("loss", [plain_loss, wrapped_loss, F.nll_loss], ids=["other", "wrapped", "neighbour"])
def test_a_replaced_function_is_named(loss: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "cross_entropy", loss)
    assert list(patched()) == ["torch.nn.functional.cross_entropy"]


def test_a_replaced_method_is_named_and_torchs_own_wrappers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # torch wraps `step` of the class
    assert patched() == {}
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    assert list(patched()) == ["torch.optim.sgd.SGD.step"]


def record_of(root: Path, scripts: str) -> str:
    """A RECORD of a package of two modules, as an installer in another place would write it."""
    lines = [f"../../../bin/tool,sha256={scripts},{len(scripts)}", "torch/__pycache__/x.pyc,,", "torch.dist-info/R,,"]
    for file in sorted((root / "torch").rglob("*.py")):
        digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
        lines.append(f"{file.relative_to(root).as_posix()},sha256={digest},{file.stat().st_size}")
    return "\n".join(lines)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name in ("torch/nn/functional.py", "torch/other.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    return tmp_path


def test_scripts_and_compiled_files_of_another_place_do_not_count(package: Path) -> None:
    listed = listed_files(record_of(package, "a"), "torch")
    assert set(listed) == {"torch/nn/functional.py", "torch/other.py"}
    assert listed == listed_files(record_of(package, "another"), "torch")


@pytest.mark.parametrize(
    ("file", "content"),
    [("torch/nn/functional.py", "x = 2\n"), ("torch/other.py", "x = 10\n"), ("torch/other.py", None)],
    ids=["same size", "other size", "missing"],
)
def test_an_edited_file_is_named(package: Path, file: str, content: str | None) -> None:
    listed = listed_files(record_of(package, "a"), "torch")
    assert edited_files(package, listed) == {}
    if content is None:
        (package / file).unlink()
    else:
        (package / file).write_text(content)
    assert list(edited_files(package, listed)) == [file]


@pytest.mark.slow  # a process that imports torch
def test_a_startup_module_that_patches_the_loss_shows(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import torch.nn.functional as F\nplain = F.cross_entropy\n"
        "F.cross_entropy = lambda *a, **k: 0.5 * plain(*a, **k)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    code = "import roadmap.train.execute\nfrom roadmap.runs.libraries import libraries\nfound = libraries()\n"
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}print(list(found.patched), list(found.startup))"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == "['torch.nn.functional.cross_entropy'] ['sitecustomize']"
