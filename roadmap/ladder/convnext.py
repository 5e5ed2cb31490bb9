"""The ConvNeXt roadmap as data: from ResNet to ConvNeXt, and on to V2.

Sources: the ConvNeXt paper (arXiv 2201.03545 v2), sections 2.1-2.6, Figure 2 and Tables 1, 10 and 11; the ConvNeXt V2
paper (arXiv 2301.00808) for the last step; docs/decisions.md tells for each entry whether it is paper-backed, inferred
or open.
"""

from __future__ import annotations

from typing import Any

from roadmap.config.model import ModelSpec
from roadmap.ladder.ladder import ORIGINAL, Ladder, Printed, Reference, Regime, Step, paper_table

MODERN = "modern"
BEYOND = "beyond the paper"

BLOCK_WEIGHTS = frozenset(
    {
        "~block.conv_dw",
        "~block.mlp.fc1",
        "~block.mlp.fc2",
        "~block.mlp.norm1",
        "~block.norm",
        "~block.mlp.norm2",
        "~block.shortcut.0",
        "~block.shortcut.1",
        "~block.gamma",
    }
)
EVERYTHING = BLOCK_WEIGHTS | {"~stem.0", "~head.fc"}

_STEPS = (
    Step(
        id="0",
        name="baseline",
        parent=None,
        title="ResNet, original recipe",
        group="start",
        source="Section 2, Table 10",
    ),
    Step(
        id="1",
        name="recipe",
        parent="baseline",
        title="modern training recipe",
        group="start",
        source="Section 2.1, A.1, Table 5",
        overrides={"recipe": MODERN, "layer_scale": 1e-6, "init": "trunc_normal"},
        structure=frozenset({"+block.gamma", "+block.drop_path"}),
    ),
    Step(
        id="2",
        name="stage-ratio",
        parent="recipe",
        title="stage ratio",
        group="macro design",
        source="Section 2.2",
        structure=frozenset({"~block.drop_path"}),
    ),
    Step(
        id="3",
        name="patchify-stem",
        parent="stage-ratio",
        title="patchify stem",
        group="macro design",
        source="Section 2.2",
        evidence="inferred",
        overrides={"stem": "patchify"},
        structure=frozenset({"~stem.0", "-stem.1", "-stem.2"}),
    ),
    Step(
        id="4",
        name="depthwise",
        parent="patchify-stem",
        title="depthwise convolution",
        group="ResNeXt",
        source="Section 2.3",
        overrides={"depthwise": True},
        structure=frozenset({"~block.conv_dw"}),
    ),
    Step(
        id="4b",
        name="width",
        parent="depthwise",
        title="width",
        group="ResNeXt",
        source="Section 2.3",
        structure=EVERYTHING,
    ),
    Step(
        id="5",
        name="inverted-bottleneck",
        parent="width",
        title="inverted bottleneck",
        group="inverted bottleneck",
        source="Section 2.4",
        overrides={"inverted_bottleneck": True},
        structure=BLOCK_WEIGHTS | {"-block.shortcut.0", "-block.shortcut.1", "~head.fc"},
    ),
    Step(
        id="5b",
        name="move-up-depthwise",
        parent="inverted-bottleneck",
        title="depthwise moved up",
        group="large kernel",
        source="Section 2.5",
        overrides={"move_up_depthwise": True},
        structure=frozenset({"~block.conv_dw", "~block.norm"}),
    ),
    Step(
        id="6",
        name="kernel-7",
        parent="move-up-depthwise",
        title="kernel size 7",
        group="large kernel",
        source="Section 2.5",
        overrides={"kernel_size": 7},
        structure=frozenset({"~block.conv_dw"}),
    ),
    Step(
        id=None,
        name="kernel-5",
        parent="move-up-depthwise",
        title="kernel size 5",
        group="large kernel",
        source="Section 2.5",
        on_path=False,
        overrides={"kernel_size": 5},
        structure=frozenset({"~block.conv_dw"}),
    ),
    Step(
        id=None,
        name="kernel-9",
        parent="move-up-depthwise",
        title="kernel size 9",
        group="large kernel",
        source="Section 2.5",
        on_path=False,
        overrides={"kernel_size": 9},
        structure=frozenset({"~block.conv_dw"}),
    ),
    Step(
        id=None,
        name="kernel-11",
        parent="move-up-depthwise",
        title="kernel size 11",
        group="large kernel",
        source="Section 2.5",
        on_path=False,
        overrides={"kernel_size": 11},
        structure=frozenset({"~block.conv_dw"}),
    ),
    Step(
        id="7",
        name="gelu",
        parent="kernel-7",
        title="ReLU to GELU",
        group="micro design",
        source="Section 2.6",
        overrides={"activation": "gelu"},
        structure=frozenset({"~block.act", "~block.act_dw", "~block.mlp.act"}),
    ),
    Step(
        id="7b",
        name="fewer-activations",
        parent="gelu",
        title="fewer activations",
        group="micro design",
        source="Section 2.6",
        overrides={"activations": "one"},
        structure=frozenset({"-block.act", "-block.act_dw"}),
    ),
    Step(
        id="7c",
        name="fewer-norms",
        parent="fewer-activations",
        title="fewer norms",
        group="micro design",
        source="Section 2.6",
        evidence="inferred",
        overrides={"norms": "one"},
        structure=frozenset({"-block.mlp.norm1", "-block.mlp.norm2"}),
    ),
    Step(
        id="8",
        name="layernorm",
        parent="fewer-norms",
        title="BatchNorm to LayerNorm (and block biases)",
        group="micro design",
        source="Section 2.6",
        evidence="inferred",
        overrides={"norm": "layer", "conv_bias": True},
        structure=frozenset({"~block.norm", "~block.shortcut.1", "~block.conv_dw", "~block.mlp.fc1", "~block.mlp.fc2"}),
    ),
    # The first block of a stage now runs at the stage's own width: its k x k, norm and first 1x1 change shape.
    Step(
        id="9",
        name="separate-downsampling",
        parent="layernorm",
        title="separate downsampling: ConvNeXt",
        group="micro design",
        source="Section 2.6",
        overrides={"downsampling": "separate"},
        structure=frozenset(
            {
                "+stem.1",
                "+head.norm",
                "+downsample.0",
                "+downsample.1",
                "-block.shortcut.0",
                "-block.shortcut.1",
                "~block.conv_dw",
                "~block.norm",
                "~block.mlp.fc1",
            }
        ),
    ),
    Step(
        id="10",
        name="ema",
        parent="separate-downsampling",
        title="moving average of the weights",
        group=BEYOND,
        source="Table 1, Table 5, A.1",
        overrides={"recipe.ema_decay": 0.9999},
    ),
    Step(
        id="11",
        name="grn",
        parent="ema",
        title="GRN instead of LayerScale: ConvNeXt V2",
        group=BEYOND,
        source="ConvNeXt V2 (arXiv 2301.00808), Section 4",
        of_ladder=False,
        overrides={"grn": True, "layer_scale": None},
        structure=frozenset({"+block.mlp.grn", "-block.gamma"}),
    ),
)

# Figure 2 and Table 10: mean and deviation over three seeds. ema: Table 1; grn: the V2 paper's supervised V2-T.
PAPER_RESNET50 = paper_table("""
baseline              76.13 -    4.09
recipe                78.82 0.07 4.09
stage-ratio           79.36 0.07 4.53
patchify-stem         79.51 0.18 4.42
depthwise             78.28 0.08 2.35
width                 80.50 0.02 5.27
inverted-bottleneck   80.64 0.03 4.64
move-up-depthwise     79.92 0.08 4.07
kernel-7              80.57 0.14 4.15
kernel-5              80.35 0.08 4.10
kernel-9              80.57 0.06 4.21
kernel-11             80.47 0.11 4.29
gelu                  80.62 0.14 4.15
fewer-activations     81.27 0.06 4.15
fewer-norms           81.41 0.09 4.15
layernorm             81.47 0.09 4.46
separate-downsampling 81.97 0.06 4.49
ema                   82.1  -    -
grn                   82.5  -    -
""")

# Table 11: single runs. ema: Table 1; grn: the V2 paper's supervised V2-B. baseline: 21.8 % is ResNet-200's error in
# arXiv 1603.05027, Table 5, on crops of 320 px.
PAPER_RESNET200 = paper_table(
    """
baseline              78.20 - 15.01
recipe                81.14 - 15.01
stage-ratio           81.33 - 14.52
patchify-stem         81.59 - 14.38
depthwise             80.54 - 7.23
width                 81.85 - 16.76
inverted-bottleneck   82.64 - 15.68
move-up-depthwise     82.04 - 14.63
kernel-7              82.30 - 14.81
kernel-5              82.32 - 14.70
kernel-9              82.27 - 14.95
kernel-11             82.18 - 15.13
gelu                  82.19 - 14.81
fewer-activations     82.71 - 14.81
fewer-norms           83.17 - 14.81
layernorm             83.35 - 14.81
separate-downsampling 83.60 - 15.35
ema                   83.8  - -
grn                   84.3  - -
""",
    quoted={"baseline": "quoted from elsewhere, trained and tested otherwise; pytorch-90ep does not make it"},
)

_RESNET50: Any = {"recipe": {"drop_path_rate": 0.1}, "stage-ratio": {"depths": (3, 3, 9, 3)}, "width": {"width": 96}}
_FULL_SIZE = {ORIGINAL: "pytorch-90ep", MODERN: "convnext-300ep"}
_BLOCKS_MOVED = {"stage-ratio": frozenset({"+block", "-block"})}
_POOL_REMOVED = {"patchify-stem": frozenset({"-stem.3"})}

_REGIMES = (
    Regime(
        name="resnet50",
        title="ResNet-50 to ConvNeXt-T",
        image_size=224,
        base=ModelSpec(),
        recipes=_FULL_SIZE,
        data="imagenet",
        overrides=_RESNET50,
        structure=_BLOCKS_MOVED | _POOL_REMOVED,
        paper=PAPER_RESNET50,
        reference=Reference(name="Swin-T", top1=81.30, gflops=4.50),
    ),
    Regime(
        name="resnet200",
        title="ResNet-200 to ConvNeXt-B",
        image_size=224,
        base=ModelSpec(depths=(3, 24, 36, 3)),
        recipes=_FULL_SIZE,
        data="imagenet",
        overrides={
            "recipe": {"drop_path_rate": 0.5},
            "stage-ratio": {"depths": (3, 3, 27, 3), "width": 84},
            "width": {"width": 128},
        },
        structure={"stage-ratio": EVERYTHING | {"-block", "~stem.1"}} | _POOL_REMOVED,
        paper=PAPER_RESNET200,
        reference=Reference(name="Swin-B", top1=83.50, gflops=15.43),
    ),
    # A stand-in for the first: whether it ranks the steps alike is to be measured.
    Regime(
        name="resnet50-100ep-160px",
        title="ResNet-50 to ConvNeXt-T, a third of the epochs at 160 px",
        image_size=160,
        base=ModelSpec(),
        recipes={ORIGINAL: "pytorch-30ep", MODERN: "convnext-100ep"},
        data="imagenet",
        overrides={**_RESNET50, "ema": {"recipe.ema_decay": 0.9997}},
        structure=_BLOCKS_MOVED | _POOL_REMOVED,
    ),
    Regime(
        name="cifar",
        title="small ResNet to the size of ConvNeXt V2 Atto, 32 px",
        image_size=32,
        base=ModelSpec(depths=(2, 3, 4, 2), width=28, stem_stride=2, num_classes=10),
        recipes={ORIGINAL: "cifar-sgd", MODERN: "cifar-adamw"},
        data="cifar10",
        overrides={
            "recipe": {"drop_path_rate": 0.1},
            "stage-ratio": {"depths": (2, 2, 6, 2)},
            "width": {"width": 40},
            "ema": {"recipe.ema_decay": 0.999, "recipe.ema_warmup": True},
        },
        structure=_BLOCKS_MOVED,
    ),
    Regime(
        name="micro",
        title="laptop ladder, 16 px",
        image_size=16,
        base=ModelSpec(depths=(1, 1, 1, 1), width=16, stem_stride=2, num_classes=10, in_chans=1),
        recipes={ORIGINAL: "digits-sgd", MODERN: "digits-adamw"},
        data="digits",
        overrides={
            "recipe": {"drop_path_rate": 0.05},
            "stage-ratio": {"depths": (1, 1, 3, 1)},
            "width": {"width": 24},
            "ema": {"recipe.ema_decay": 0.99, "recipe.ema_warmup": True},
        },
        structure={"stage-ratio": frozenset({"+block"})},
    ),
    # As ResNet-200 is to ResNet-50: deeper, and the blocks move from the second stage to the third.
    Regime(
        name="micro-deep",
        title="deeper laptop ladder, 16 px",
        image_size=16,
        base=ModelSpec(depths=(1, 3, 3, 1), width=16, stem_stride=2, num_classes=10, in_chans=1),
        recipes={ORIGINAL: "digits-sgd", MODERN: "digits-adamw"},
        data="digits",
        overrides={
            "recipe": {"drop_path_rate": 0.1},
            "stage-ratio": {"depths": (1, 1, 5, 1)},
            "width": {"width": 24},
            "ema": {"recipe.ema_decay": 0.99, "recipe.ema_warmup": True},
        },
        structure=_BLOCKS_MOVED,
    ),
)

CONVNEXT = Ladder(
    name="convnext",
    title="the ConvNeXt roadmap",
    source="arXiv 2201.03545 v2",
    printed=Printed("ConvNeXt, arXiv 2201.03545 v2, Tables 10 and 11", "ImageNet-1k", "three seeds"),
    all_steps=_STEPS,
    all_regimes=_REGIMES,
    end="separate-downsampling",
    beyond=BEYOND,
)


def convnext_spec(step: str | int, regime: str = "", **settings: Any) -> ModelSpec:
    """Return the network of one of this ladder's steps. Raises ConfigError."""
    spec = CONVNEXT.model(step, regime, **settings)
    assert isinstance(spec, ModelSpec)
    return spec
