"""Number formats of a run: which are asked for, how they are set, and which are observed.

Autocast's format and the residual stream's come from the recipe; on a GPU so does the arithmetic of
float32, which torch would otherwise choose apart for convolutions (TF32) and matrix products (not).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from roadmap.config.model import AnySpec, TimmSpec
from roadmap.config.recipe import Recipe
from roadmap.model.complexity import on_meta, timm_on_meta
from roadmap.model.network import ModernizableResNet
from roadmap.model.residual import Residual
from roadmap.runs.record import Formats

SUBNORMAL = 1e-40  # of float32, which is 0 where such numbers are flushed
# Variables by which the libraries below torch choose other instructions, other algorithms or coarser numbers.
ARITHMETIC = (
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "KMP_DETERMINISTIC_REDUCTION",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DISABLED",
)
AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def precision_of(recipe: Recipe, device: torch.device) -> str:
    """fp32, bf16 or fp16: what the recipe says, or what its `auto` means on this device."""
    if recipe.precision != "auto":
        return recipe.precision
    return "bf16" if device.type == "cuda" else "fp32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context of a forward pass; does nothing in fp32."""
    dtype = AUTOCAST[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def set_float32_arithmetic(recipe: Recipe, device: torch.device) -> None:
    """Give convolutions and matrix products of float32 one arithmetic on a GPU: IEEE's, or TF32.

    Holds for the process, so each run sets it anew. By torch's older names, which all releases from
    2.6 on know, and which its compiler reads. cuDNN tries its algorithms for each shape, of which a
    run has few, and keeps the fastest, unless it must be deterministic; the record says so.
    """
    if device.type == "cuda":
        wants_bits = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
        torch.backends.cudnn.benchmark = not wants_bits
        torch.backends.cuda.matmul.allow_tf32 = recipe.tf32
        torch.backends.cudnn.allow_tf32 = recipe.tf32


def formats_of(spec: AnySpec, recipe: Recipe, image_size: int, device: torch.device) -> Formats:
    """What decides how numbers are held and multiplied, read where it is set, not where it is asked for."""
    dtype = AUTOCAST[precision_of(recipe, device)]
    on_gpu = device.type == "cuda"
    seen = ("float32",) if dtype is None else observed_residual(spec, recipe.residual, image_size, device.type, dtype)
    return Formats(
        autocast="none" if dtype is None else _name(dtype),
        residual=" and ".join(seen) or None,
        matmul=_arithmetic(device, tf32=torch.backends.cuda.matmul.allow_tf32),
        convolution=_arithmetic(device, tf32=torch.backends.cudnn.allow_tf32),
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        cudnn_deterministic=torch.backends.cudnn.deterministic,
        deterministic=torch.are_deterministic_algorithms_enabled(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        matmul_precision=torch.get_float32_matmul_precision(),
        reduced_reduction=_reduced_reduction(device),
        onednn=torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled),
        denormals=bool(torch.tensor([SUBNORMAL]).mul(1.0).ne(0)),
        build=_build(),
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=_cudnn() if on_gpu else None,
        driver=driver_version() if on_gpu else None,
        environment={name: os.environ[name] for name in ARITHMETIC if name in os.environ},
    )


def _reduced_reduction(device: torch.device) -> str | None:
    """'bf16 and fp16', one of them, or 'none'; None on a CPU."""
    if device.type != "cuda":
        return None
    matmul = torch.backends.cuda.matmul
    allowed = {
        "bf16": matmul.allow_bf16_reduced_precision_reduction,
        "fp16": matmul.allow_fp16_reduced_precision_reduction,
    }
    return " and ".join(name for name, is_allowed in allowed.items() if is_allowed) or "none"


def _cudnn() -> str | None:
    version = torch.backends.cudnn.version()
    return None if version is None else str(version)


@lru_cache
def _build() -> str:
    """Digest of torch's own account of how it was built, without what it found on this machine."""
    lines = torch.__config__.show().splitlines()
    built = [line for line in lines if "CPU capability usage" not in line]
    return hashlib.sha256("\n".join(built).encode()).hexdigest()[:16]


@lru_cache
def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The release of NVIDIA's driver, None where the kernel does not tell it."""
    try:
        first = path.read_text().partition("\n")[0]
    except OSError:
        return None
    return next((word for word in first.split() if re.fullmatch(r"\d+(\.\d+)+", word)), None)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _arithmetic(device: torch.device, *, tf32: bool) -> str:
    return "tf32" if tf32 and device.type == "cuda" else "ieee"


@lru_cache(maxsize=256)
def observed_residual(
    spec: AnySpec, residual: Residual, image_size: int, device: str, dtype: torch.dtype
) -> tuple[str, ...]:
    """The formats, sorted, of what the blocks of a network hand on under autocast.

    Seen in a pass of one image without data or arithmetic, so a timm network's are known too. One
    name where the residual stream has one format; none where a network cannot be passed through so,
    as one that decides by its values.
    """
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
        UnsupportedOperatorException,
    )

    model = timm_on_meta(spec, image_size) if isinstance(spec, TimmSpec) else on_meta(spec)
    set_residual(model.eval(), residual)
    seen: set[str] = set()

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.add(_name(output.dtype))

    for block in blocks_of(model):
        block.register_forward_hook(note)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    unseen = contextlib.suppress(
        DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException
    )
    with unseen, FakeTensorMode(), torch.no_grad():
        state = {name: torch.empty(t.shape, dtype=t.dtype, device=device) for name, t in tensors.items()}
        image = torch.empty(1, spec.in_chans, image_size, image_size, device=device)
        with torch.autocast(device, dtype=dtype):
            torch.func.functional_call(model, state, (image,))
    return tuple(sorted(seen))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What stands in a row with others of its class: blocks and stages, of any network."""
    rows = [list(m) for m in model.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    return [m for row in rows if len(row) > 1 and len({type(m) for m in row}) == 1 for m in row]


def set_residual(model: nn.Module, residual: Residual) -> None:
    """Declare the residual stream's format to one of our networks; a timm network has its own."""
    if isinstance(model, ModernizableResNet):
        model.set_residual(residual)
