"""Part `startup`: how long a command that trains nothing takes to answer, beside a bare Python.

The bare Python imports what every command line of this kind does. That the answers are whole, and
that nothing heavy was loaded for them, is checked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import roadmap
from roadmap.bench.pairs import Check, Finding, interleaved
from roadmap.ladder.convnext import CONVNEXT

METHOD = (
    "Wall time of `roadmap --help` and `roadmap run --list` in a process of their own, beside "
    '`python -c "import argparse, json, dataclasses, pathlib"` by the same interpreter.'
)
BARE = "import argparse, json, dataclasses, pathlib"
HEAVY = ("torch", "torchvision", "timm", "pandas", "matplotlib")
VERBS = ("run", "plan", "steps", "diff", "report", "check", "status", "bench")
PER_PAIR = 3  # measurements for each pair that is asked for: one takes a tenth of a second
ASK_LOADED = f"""
import sys
from roadmap.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""


def startup(pairs: int, scratch: Path) -> Iterator[Finding]:
    """Compare both commands' start; `scratch` is where they are called."""
    for key, words, expected in (
        ("help", ("--help",), VERBS),
        ("list", ("run", "--list"), tuple(step.name for step in CONVNEXT.steps.values())),
    ):
        command, name = ["-m", "roadmap", *words], " ".join(("roadmap", *words))
        answer = python(command, scratch)
        absent = [word for word in expected if word not in answer.split()]
        yield Check(name=f"{name}: names that its answer lacks, of {len(expected)}", apart=len(absent), allowed=0)
        heavy = python(["-c", ASK_LOADED, *words], scratch).splitlines()[-1].split()
        yield Check(name=f"{name}: heavy packages loaded, of {', '.join(HEAVY)}", apart=len(heavy), allowed=0)
        yield interleaved(
            key,
            "start",
            (name, partial(python, command, scratch)),
            ("a bare Python", partial(python, ["-c", BARE], scratch)),
            pairs=PER_PAIR * pairs,
        )


def python(words: Sequence[str], folder: Path) -> str:
    """What the interpreter prints that runs this code; the project is this process's."""
    environment = {**os.environ, "PYTHONPATH": str(Path(roadmap.__file__).parents[1])}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
