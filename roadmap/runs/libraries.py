"""The libraries a process computes with, as they are and not as their version says.

Told are: other files under the same version, files that were edited after they were installed,
functions that were replaced in memory, and the start-up files by which that is usually done. Made
once a process, in less than 0.1 s. No torch is imported here, but looked at where it is in memory.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

LIBRARIES: Mapping[str, str] = {  # distribution -> its package
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "numpy": "numpy",
    "pillow": "PIL",
}
STARTUP = ("sitecustomize", "usercustomize")  # modules that Python imports by itself, before any of ours

# What a training and its evaluation go through, as module:qualified name.
FUNCTIONS = (
    "torch.nn.functional:cross_entropy",
    "torch.nn.functional:layer_norm",
    "torch.nn.functional:batch_norm",
    "torch.nn.functional:relu",
    "torch.nn.functional:gelu",
    "torch.nn.functional:linear",
    "torch.nn.functional:conv2d",
    "torch.nn.functional:dropout",
    "torch.nn.modules.module:Module._call_impl",
    "torch.nn.modules.conv:Conv2d.forward",
    "torch.nn.modules.conv:Conv2d._conv_forward",
    "torch.nn.modules.linear:Linear.forward",
    "torch.nn.modules.normalization:LayerNorm.forward",
    "torch.nn.modules.batchnorm:_BatchNorm.forward",
    "torch.nn.modules.loss:CrossEntropyLoss.forward",
    "torch.nn.init:trunc_normal_",
    "torch.nn.init:kaiming_normal_",
    "torch.nn.utils.clip_grad:clip_grad_norm_",
    "torch.optim.adam:Adam.step",
    "torch.optim.adam:adam",
    "torch.optim.sgd:SGD.step",
    "torch.optim.sgd:sgd",
    "torch._tensor:Tensor.backward",
    "torch.autograd:backward",
    "torchvision.transforms.functional:resize",
    "torchvision.transforms.functional:crop",
    "torchvision.transforms.functional:normalize",
    "torchvision.transforms.functional:to_tensor",
    "torchvision.transforms.transforms:Normalize.forward",
    "torchvision.transforms.transforms:CenterCrop.forward",
    "timm.data.mixup:Mixup.__call__",
    "timm.data.auto_augment:RandAugment.__call__",
    "timm.data.auto_augment:AugmentOp.__call__",
    "timm.data.random_erasing:RandomErasing.__call__",
    "timm.data.transforms_factory:create_transform",
    "timm.data.transforms:RandomResizedCropAndInterpolation.__call__",
    "timm.optim._optim_factory:create_optimizer_v2",
    "timm.layers.drop:drop_path",
    "timm.layers.norm:LayerNorm2d.forward",
    "timm.utils.model_ema:ModelEmaV3.update",
    "PIL.Image:open",
    "PIL.Image:Image.resize",
    "PIL.Image:Image.convert",
    "PIL.Image:fromarray",
)


@dataclass(frozen=True)
class Libraries:
    """What the libraries of a process are beside their versions.

    digests   {distribution: of its files as RECORD lists them, or of its sources where there is none}
    edited    {file: its digest} of files that are not as their distribution's RECORD says
    patched   {function: file and digest of what stands in its place}
    startup   {module: its digest} of STARTUP that were imported
    """

    digests: Mapping[str, str]
    edited: Mapping[str, str]
    patched: Mapping[str, str]
    startup: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """One mapping each; empty ones are kept, for they say that there was nothing."""
        return {name: dict(getattr(self, name)) for name in ("digests", "edited", "patched", "startup")}


def libraries() -> Libraries:
    """Those of this process. Functions are looked at anew each time: anything may replace them between two runs."""
    digests, edited = _installed()
    return Libraries(digests, edited, patched(), startup())


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


# As installed -----------------------------------------------------------------------------------------------------


@functools.cache
def _installed() -> tuple[dict[str, str], dict[str, str]]:
    """(digests, edited files) of LIBRARIES, as far as they are installed."""
    digests: dict[str, str] = {}
    edited: dict[str, str] = {}
    for name, package in LIBRARIES.items():
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        root = Path(str(distribution.locate_file("")))
        listed = listed_files(distribution.read_text("RECORD") or "", package)
        if listed and _imported_from(package, root):
            digests[name] = _short("\n".join(f"{file} {has}" for file, (has, _) in sorted(listed.items())).encode())
            edited |= edited_files(root, listed)
        else:  # installed as sources, or shadowed by others
            digests[name] = f"sources:{_digest_of_sources(package)}"
    return digests, edited


def _imported_from(package: str, root: Path) -> bool:
    file = getattr(importlib.import_module(package), "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(root.resolve())


def listed_files(record: str, package: str) -> dict[str, tuple[str, int]]:
    """{file of the package: (its hash, its bytes)} of a RECORD.

    Left out is what the same wheel has differently in another place: scripts, which name their
    interpreter, compiled files, and what the installer notes of itself.
    """
    listed = {}
    inside = (f"{package}/", f"{package}.libs/", f"{package.lower()}.libs/")
    for line in record.splitlines():
        file, has, size = line.rsplit(",", 2)
        if has and size and file.startswith(inside):
            listed[file] = (has, int(size))
    return listed


def edited_files(root: Path, listed: Mapping[str, tuple[str, int]]) -> dict[str, str]:
    """{file: digest} of modules that are not as RECORD says.

    Those of FUNCTIONS are read; of all others in Python only the size is looked at, which takes a
    twentieth of the time.
    """
    read = {f"{name.partition(':')[0].replace('.', '/')}.py" for name in FUNCTIONS}
    edited = {}
    for file, (has, size) in listed.items():
        if not file.endswith(".py"):
            continue
        path = f"{root}/{file}"
        try:
            if os.stat(path).st_size != size or (file in read and _recorded_hash(Path(path)) != has):
                edited[file] = _short(Path(path).read_bytes())
        except OSError:
            edited[file] = "missing"
    return edited


def _recorded_hash(path: Path) -> str:
    """As RECORD writes it."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return f"sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def _digest_of_sources(package: str) -> str:
    file = getattr(importlib.import_module(package), "__file__", None)
    if file is None:
        return "none"
    folder = Path(file).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


# In memory --------------------------------------------------------------------------------------------------------


def patched() -> dict[str, str]:
    """{function: 'FILE DIGEST'} of FUNCTIONS that are not their own package's, or that another one stands for."""
    odd = {}
    for name in FUNCTIONS:
        module, _, qualified = name.partition(":")
        if module.partition(".")[0] not in sys.modules:
            continue  # what is not imported decides nothing
        strange = next(_strangers(module, qualified), None)
        if strange:
            odd[f"{module}.{qualified}"] = strange
    return odd


def _strangers(module: str, qualified: str) -> Iterator[str]:
    """What of a function, or of what it wraps, is not its package's; nothing for one that this release has not."""
    try:
        home: Any = importlib.import_module(module)
        function: Any = functools.reduce(getattr, qualified.split("."), home)
    except (ImportError, AttributeError):
        return
    for layer in _layers(function):
        code = getattr(layer, "__code__", None)
        if isinstance(code, CodeType) and not code.co_filename.startswith(_folders()):
            yield f"{Path(code.co_filename).name} {_digest_of_code(code)}"
    innermost = getattr(inspect.unwrap(function), "__name__", qualified)
    if innermost != qualified.rpartition(".")[2]:
        yield f"{innermost} in its place"


def _folders() -> tuple[str, ...]:
    """The folders of LIBRARIES: one may wrap another's functions, as torch's `no_grad` does."""
    files = [getattr(sys.modules.get(package), "__file__", None) for package in LIBRARIES.values()]
    return tuple(f"{Path(file).parent}/" for file in files if file)


def _layers(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The function, what it wraps, what that wraps, ..."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)  # type: ignore[assignment]


def _digest_of_code(code: CodeType) -> str:
    """Of what the code does, wherever it lies: nested functions included, line numbers not."""
    digest = hashlib.sha256(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        inner = _digest_of_code(constant) if isinstance(constant, CodeType) else repr(constant)
        digest.update(inner.encode())
    return digest.hexdigest()[:16]


def startup() -> dict[str, str]:
    """{module: digest} of STARTUP that this process has imported."""
    found = {}
    for name in STARTUP:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            found[name] = _short(Path(file).read_bytes())
    return found
