"""The ladder grows: a toggle with its step, added to a copy of the tree, changes no fingerprint and orphans no run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
COPIED = ("roadmap", "analysis", "experiments", "tests", "results", "docs", "pyproject.toml", "Makefile", "README.md")
STEP = """    Step(
        name="squeeze-excite",
        parent="separate-downsampling",
        title="squeeze and excitation",
        group="micro design",
        on_path=False,
        source="arXiv 1709.01507",
        evidence="inferred",
        overrides={"squeeze_excite": True},
        structure=frozenset({"+block.mlp.se.fc1", "+block.mlp.se.act", "+block.mlp.se.fc2", "+block.mlp.se.gate"}),
    ),
"""
GRN_FIELD = '    grn: bool = setting("Global Response Normalization before the block\'s last 1x1", default=False)\n'
GRN_TABLE = "RESPONSE_NORMS: dict[bool, Callable[[int], nn.Module]] = {False: nn.Identity, True: GlobalResponseNorm}\n"
GRN_SLOT = "        self.grn = RESPONSE_NORMS[spec.grn](hidden)\n"
LAST_STEP = '        structure=frozenset({"+block.mlp.grn", "-block.gamma"}),\n    ),\n'
FIELD = '    squeeze_excite: bool = setting("squeeze and excitation", default=False, since=3, neutral=False)\n'
TABLE = "SQUEEZES: dict[bool, Callable[[int], nn.Module]] = {False: nn.Identity, True: SqueezeExcite}\n"
SLOT = "        self.se = SQUEEZES[spec.squeeze_excite](hidden)\n"

# The four places that docs/extending.md names: (file, what stands there, what stands there then).
EDITS = (
    ("roadmap/config/model.py", GRN_FIELD, GRN_FIELD + FIELD),
    ("roadmap/model/layers.py", GRN_TABLE, GRN_TABLE + TABLE),
    ("roadmap/model/layers.py", "import LayerNorm2d\n", "import LayerNorm2d, SqueezeExcite\n"),
    ("roadmap/model/block.py", GRN_SLOT, GRN_SLOT + SLOT),
    ("roadmap/model/block.py", "self.fc2(self.grn(x))", "self.fc2(self.se(self.grn(x)))"),
    ("roadmap/model/block.py", "RESPONSE_NORMS, DropPath", "RESPONSE_NORMS, SQUEEZES, DropPath"),
    ("roadmap/ladder/convnext.py", LAST_STEP, LAST_STEP + STEP),
)
# Tests that iterate over the ladder, its toggles or what is committed; none that trains or builds large networks.
NOTICED_BY = (
    "tests/config",
    "tests/ladder/test_convnext.py",
    "tests/study/test_golden.py",
    "tests/study/test_file.py",
    "tests/study/test_file_values.py",
    "tests/model/test_model_ladder.py",
    "tests/model/test_model_module_diff.py",
    "tests/model/test_model_toggles.py",
    "tests/analysis/test_committed.py",
    "tests/cli/test_ladder.py",
)
# What must notice that there is another toggle and another step, and nothing else.
NOTICING = {
    "tests/model/test_model_toggles.py::test_every_toggle_is_varied_here",
    "tests/study/test_file_values.py::test_the_committed_schema_is_todays",
}


def grow(tree: Path) -> None:
    """Add the toggle and its step to the tree, by its four places."""
    for name, before, after in EDITS:
        text = (tree / name).read_text()
        assert text.count(before) == 1, f"{name} no longer has the place that docs/extending.md names: {before}"
        (tree / name).write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with one toggle and one step more."""
    tree = tmp_path_factory.mktemp("grown") / "tree"
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.png", "*.html"))
        else:
            shutil.copy(source, tree / name)
    grow(tree)
    return tree


Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the committed results and the runs of a small study, trained before the ladder grew."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(ROOT / "results", folder / "results")
    answer = in_tree(ROOT, folder)("run", *SMALL, "--jobs", "2")
    assert answer.returncode == 0, answer.stderr
    return folder


SMALL = ("--study", "digits", "--step", "8", "--step", "9", "--epochs", "1", "--seeds", "0", "1", "--name", "small")


def in_tree(tree: Path, folder: Path) -> Call:
    """`roadmap WORDS` with the code of a tree, called in a folder."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "roadmap", *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return call


def answer_of(call: Call, *words: str) -> Any:
    found = call(*words, "--json")
    assert found.stdout, found.stderr
    return found.returncode, json.loads(found.stdout)


def comparable(value: Any) -> Any:
    """An answer without what may differ: the files it wrote, and the list of all settings that were found equal."""
    if isinstance(value, dict):
        return {key: comparable(one) for key, one in value.items() if key not in ("files", "same")}
    return [comparable(one) for one in value] if isinstance(value, (list, tuple)) else value


def test_the_new_step_is_there_and_builds(grown: Path, place: Path) -> None:
    status, rows = answer_of(in_tree(grown, place), "steps", "--regime", "micro")
    assert status == 0
    new = next(row for row in rows if row["name"] == "squeeze-excite")
    old = next(row for row in rows if row["name"] == "separate-downsampling")
    assert new["params"] > old["params"]


def test_finished_runs_are_not_trained_again(grown: Path, place: Path) -> None:
    before = sorted(p.name for p in (place / "runs" / "small").iterdir())
    answer = in_tree(grown, place)("run", *SMALL)
    assert answer.returncode == 0 and "4 of 4 runs are finished already" in answer.stderr, answer.stderr
    assert sorted(p.name for p in (place / "runs" / "small").iterdir()) == before


@pytest.mark.parametrize(
    "words",
    [
        ("report", "small", "--out", "reported"),
        ("check", "small"),
        ("check", "results/digits"),
        ("power", "results/digits", "--resolve", "0.5"),
        ("attribute", "micro-design-digits"),
        ("attribute", "results/digits"),
        ("status", "small"),
    ],
    ids=" ".join,
)
def test_what_is_asked_of_old_runs_is_answered_as_before(words: tuple[str, ...], grown: Path, place: Path) -> None:
    before, after = (answer_of(in_tree(tree, place), *words) for tree in (ROOT, grown))
    assert comparable(after) == comparable(before)


def test_an_old_runs_network_still_predicts(grown: Path, place: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (16, 16), 128).save(tmp_path / "grey.png")
    run = next((place / "runs" / "small").glob("separate-downsampling-seed0-*"))
    before, after = (in_tree(tree, place)("predict", str(run), str(tmp_path)) for tree in (ROOT, grown))
    assert (after.returncode, after.stdout) == (before.returncode, before.stdout)
    assert before.returncode == 0 and "grey.png" in before.stdout


def test_an_old_runs_trial_can_be_launched_again(grown: Path, place: Path) -> None:
    """What `retry` reads: the trial file of a run that knew nothing of the toggle."""
    code = (
        "import sys; from pathlib import Path; from roadmap.runs.folder import RunFolder; "
        "print(*(RunFolder(p.parent).trial().fingerprint for p in sorted(Path(sys.argv[1]).glob('*/trial.json'))))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(place / "runs" / "small")],
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for tree in (ROOT, grown)
    ]
    assert found[0] == found[1] and len(found[0].split()) == 4


def test_only_the_tests_that_should_notice_a_new_step_do(grown: Path) -> None:
    """In the grown tree golden fingerprints and committed tables hold, and every test that iterates over the ladder."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow and not slurm and not gpu",
    ]
    command += NOTICED_BY
    environment = {**os.environ, "PYTHONPATH": str(grown)}
    found = subprocess.run(command, cwd=grown, env=environment, capture_output=True, text=True, timeout=580)
    failed = {line.split()[1] for line in found.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))}
    assert failed == NOTICING, found.stdout[-3000:]
