"""<out>/README.md: what the parts measured, beside the targets, as Markdown. No torch.

`python -m roadmap.bench.page results/bench` makes it again from the files that are there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from roadmap.bench.targets import PARTS, TARGETS, Target
from roadmap.runs.io import read_json, write_bytes

PAGE = "README.md"
DEVICES = {"cpu": "on a CPU", "gpu": "on a GPU"}
INTRODUCTION = """# The harness beside its peers

Each number is the median over pairs that were timed in turn, with its 95 % interval by ordered values (the range,
where there are fewer than 6 pairs). Both sides' outputs are compared in the same benchmark: where they do not agree,
no target is met. `roadmap bench all --out results/bench` measures again and makes this page from the files
beside it; [docs/benchmarks.md](../../docs/benchmarks.md) says more.
"""
Content = Mapping[str, Any]


def page(folder: Path) -> str:
    """The page of what lies in a folder: targets first, then each part."""
    measured = {device: _read(folder / device) for device in DEVICES}
    blocks = [INTRODUCTION, targets_table(measured["cpu"])]
    for device, title in DEVICES.items():
        blocks += [part_section(part, content, title) for part, content in measured[device].items()]
    return "\n".join(blocks)


def write_page(folder: Path) -> Path:
    """Write it beside the files that it is made of."""
    path = folder / PAGE
    write_bytes(path, page(folder).encode())
    return path


def _read(folder: Path) -> dict[str, Content]:
    """What each part left, in their order."""
    found = {part: read_json(folder / f"{part}.json") for part in PARTS}
    return {part: content for part, content in found.items() if content is not None}


# Targets --------------------------------------------------------------------------------------------------------------


def targets_table(measured: Mapping[str, Content]) -> str:
    """A row a target: what was measured on a CPU, and whether it is met."""
    rows = [_target_row(target, measured.get(target.part)) for target in TARGETS]
    return _table(("target", "", "wanted", "measured (95 %)", "pairs", "met"), rows, right=(3, 4))


def _target_row(target: Target, content: Content | None) -> Sequence[str]:
    wanted = (target.id, target.text, target.wanted)
    pair = next((p for p in content["pairs"] if p["key"] == target.key), None) if content else None
    if content is None or pair is None:
        return (*wanted, "not measured", "", "")
    return (*wanted, _interval(pair), str(pair["pairs"]), verdict(target, content, pair))


def verdict(target: Target, content: Content, pair: Content) -> str:
    """Whether a target is met, which it is not where outputs differ."""
    if not all(check["agrees"] for check in content["checks"]):
        return "no: outputs differ"
    return "yes" if target.met(pair["value"]) else "**no**"


# Parts ----------------------------------------------------------------------------------------------------------------


def part_section(part: str, content: Content, device: str) -> str:
    """What one part measured and compared, how, and on what."""
    pairs = [(p["a"], p["b"], p["name"], _interval(p), str(p["pairs"]), *_seconds(p)) for p in content["pairs"]]
    checks = [(c["name"], f"{c['apart']:.2g}", f"{c['allowed']:g}", _agrees(c)) for c in content["checks"]]
    columns = ("A", "B", "", "A / B (95 %)", "pairs", "A, s", "B, s")
    return "\n".join(
        [
            f"## {part}, {device}\n",
            f"{content['method']}\n",
            _table(columns, pairs, right=(3, 4, 5, 6)),
            _table(("outputs compared", "apart", "allowed", "agree"), checks, right=(1, 2)),
            f"{'. '.join(_circumstances(content))}.\n",
        ]
    )


def _circumstances(content: Content) -> Iterator[str]:
    hardware, packages = content["hardware"], content["packages"]
    device = hardware["device"] if hardware["device"] != "cpu" else hardware["cpu"]
    yield f"{device}, {hardware['cores']} cores, {hardware['threads']} threads"
    yield ", ".join(
        f"{name} {packages[name]}" for name in ("python", "torch", "torchvision", "timm") if name in packages
    )
    yield f"Code {content['code_digest']}, {content['measured_at'][:10]}, took {content['took_seconds']:.0f} s"


def _interval(pair: Content) -> str:
    unit = f" {pair['unit']}" if pair["unit"] else ""
    return f"{pair['value']:.3g} ({pair['low']:.3g} to {pair['high']:.3g}){unit}"


def _seconds(pair: Content) -> tuple[str, str]:
    return f"{pair['a_seconds']:.3g}", f"{pair['b_seconds']:.3g}"


def _agrees(check: Content) -> str:
    return "yes" if check["agrees"] else "**no**"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> str:
    """A Markdown table, with an empty line after it; nothing where it has no rows."""
    if not rows:
        return ""
    marks = ["--:" if k in right else "---" for k in range(len(columns))]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(marks)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(write_page(Path(sys.argv[1])))
