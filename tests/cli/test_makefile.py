"""Every command of the Makefile is one that the program takes today."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from roadmap.bench import packing
from roadmap.cli.main import parser

MAKEFILE = Path(__file__).parents[2] / "Makefile"
VALUES = {"JOBS": "2", "PARTS": "loader ladder", "CIFAR": "images"}  # of make's variables; the shell's may be any word


def commands(program: str) -> list[str]:
    """The words behind a program's name, up to the end of each of its commands, with all variables filled in."""
    text = MAKEFILE.read_text().replace("\\\n", " ")
    filled = re.sub(r"\$\((\w+)\)", lambda match: VALUES.get(match[1], "word"), text)
    lines = [line.strip() for line in filled.splitlines() if line.startswith("\t")]
    found = [re.findall(rf"(?:^|[|&;]\s*|do\s+){program} ([^|&;>]+)", line) for line in lines]
    return [re.sub(r"\$\$\w+", "word", words).strip() for of_line in found for words in of_line]


@pytest.mark.parametrize("words", commands("(?:python3 -m )?roadmap"))
def test_the_program_takes_the_makefiles_options(words: str) -> None:
    parser().parse_args(shlex.split(words))


def test_packing_takes_the_makefiles_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (words,) = commands(r"python3 -m roadmap\.bench\.packing")
    monkeypatch.setattr(packing, "STEPS", ())
    out = str(tmp_path / "there")
    asked = ["cpu" if word == "cuda" else out if word == "results/bench" else word for word in shlex.split(words)]
    packing.main(asked)
    assert (tmp_path / "there" / "packing.json").exists()
