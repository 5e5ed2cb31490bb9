"""The network for other runtimes: torch.export and ONNX.

Batch size stays free, the image size is fixed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from roadmap.model.folding import fold_layer_scale

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from roadmap.model.network import ModernizableResNet

INPUT, OUTPUT = "images", "logits"


def _example(model: ModernizableResNet, image_size: int) -> torch.Tensor:
    """Two images: a batch of one would be taken for a constant."""
    like = next(model.parameters())
    return torch.zeros(2, model.in_chans, image_size, image_size, device=like.device, dtype=like.dtype)


def export_program(model: ModernizableResNet, image_size: int = 224, *, fold: bool = False) -> ExportedProgram:
    """torch.export of the network in evaluation: (N, in_chans, size, size) -> (N, num_classes).

    fold: with LayerScale in the weights before it, which rounds otherwise and is faster.
    """
    if fold:
        return export_program(fold_layer_scale(model), image_size)
    was_training = model.training
    try:
        batch = torch.export.Dim("batch")
        return torch.export.export(model.eval(), (_example(model, image_size),), dynamic_shapes=({0: batch},))
    finally:
        model.train(was_training)


def export_onnx(model: ModernizableResNet, path: str | Path, image_size: int = 224, *, fold: bool = False) -> Path:
    """Write the network as it evaluates to one ONNX file, input `images`, output `logits`.

    fold: as in `export_program`. Needs the packages onnx and onnxscript.
    """
    target = Path(path)
    program = torch.onnx.export(
        export_program(model, image_size, fold=fold),
        input_names=[INPUT],
        output_names=[OUTPUT],
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError(
            "torch.onnx.export returned no program; legal: a torch with the dynamo exporter; upgrade torch"
        )
    program.save(str(target), external_data=False)
    return target
