"""Differences between two networks, computed from the built modules and never restated.

The unit is a leaf module or a bare parameter, by its name. A slot holding nn.Identity counts as
absent. A *role* is a name without its place (`stages.2.blocks.5.mlp.fc1` -> `block.mlp.fc1`), which
is what a step of a ladder declares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from timm.layers import RmsNorm
from torch import nn

from roadmap.config.model import AnySpec, TimmSpec
from roadmap.model.complexity import complexity, on_meta, timm_on_meta
from roadmap.model.layers import ACTIVATIONS, NORMS

_BLOCK = re.compile(r"^(?:stages\.\d+\.)?blocks\.\d+")  # ours, and those of timm's transformers
_STAGE = re.compile(r"^stages\.\d+\.")
# Ours, and those of timm's networks.
_NORM_TYPES = (*(type(build(1)) for build in NORMS.values()), nn.LayerNorm, RmsNorm)
_ACTIVATION_TYPES = (*(type(build()) for build in ACTIVATIONS.values()), nn.SiLU)


@dataclass(frozen=True)
class Inventory:
    """A network's parts: {name: description}, and its counts."""

    parts: dict[str, str]
    params: int
    macs: int
    norms: int
    activations: int


@dataclass(frozen=True)
class ModuleDiff:
    """Parts that `after` has gained, lost, and has otherwise: {name: (before, after)}."""

    before: Inventory
    after: Inventory
    added: dict[str, str]
    removed: dict[str, str]
    changed: dict[str, tuple[str, str]]

    @property
    def roles(self) -> frozenset[str]:
        """`+role`, `-role` and `~role` of everything that differs.

        A block that appears or goes is one role.
        """
        signs = (("+", self.added), ("-", self.removed), ("~", self.changed))
        return frozenset(sign + role(name) for sign, names in signs for name in names)


def role(name: str) -> str:
    """A part's name without its place in the network."""
    return _STAGE.sub("", _BLOCK.sub("block", name))


def inventory(spec: AnySpec, image_size: int) -> Inventory:
    """Build the spec's network without memory and list its parts."""
    model = timm_on_meta(spec, image_size) if isinstance(spec, TimmSpec) else on_meta(spec)
    parts = {name: repr(module) for name, module in model.named_modules() if _is_part(module)}
    for name, p in model.named_parameters():
        if name.rpartition(".")[0] not in parts:
            parts[name] = f"Parameter{tuple(p.shape)}"
    size = complexity(spec, image_size)
    norms = sum(isinstance(m, _NORM_TYPES) for m in model.modules())
    activations = sum(isinstance(m, _ACTIVATION_TYPES) for m in model.modules())
    return Inventory(parts, size.params, size.macs, norms, activations)


def _is_part(module: nn.Module) -> bool:
    """Whether it is a leaf that computes something."""
    return not list(module.children()) and not isinstance(module, nn.Identity)


def module_diff(before: AnySpec, after: AnySpec, image_size: int) -> ModuleDiff:
    """Compare two specs' networks, multiply-adds at `image_size` pixels."""
    a, b = inventory(before, image_size), inventory(after, image_size)
    return ModuleDiff(
        before=a,
        after=b,
        added=_only_in(b.parts, a.parts),
        removed=_only_in(a.parts, b.parts),
        changed={n: (a.parts[n], b.parts[n]) for n in a.parts if n in b.parts and a.parts[n] != b.parts[n]},
    )


def _only_in(parts: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Parts whose name the other network lacks; those of a block that it lacks are one."""
    there = {m.group() for name in other if (m := _BLOCK.match(name))}
    only: dict[str, str] = {}
    for name, text in parts.items():
        block = _BLOCK.match(name)
        if block and block.group() not in there:
            only[block.group()] = "Block"
        elif name not in other:
            only[name] = text
    return only
