"""Known networks are evaluated as timm evaluates them, and first epochs are those of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader
from timm.utils import accuracy
from torch import Tensor, nn

from roadmap.config.errors import RoadmapError
from roadmap.config.model import with_settings
from roadmap.config.runtime import Runtime
from roadmap.config.trial import Trial
from roadmap.data.pipeline import eval_transform
from roadmap.data.registry import resolve_data
from roadmap.model.build import build_network
from roadmap.model.weights import load_weights
from roadmap.runs.io import file_digest
from roadmap.train import execute as execution
from roadmap.train import sanity
from roadmap.train.distributed import Ranks
from roadmap.train.execute import execute
from roadmap.train.sanity import KNOWN, KnownNetwork, cached_weights, first_epochs, known_scores
from tests.helpers.small_runs import make_run, make_trial

CLASSES, PIXELS = 5, 64


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files of several shapes, wider and higher than long, each of its own colours."""
    root, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for split, count in (("train", 60), ("val", 2)):
        for label in range(CLASSES):
            (root / split / f"class-{label}").mkdir(parents=True)
            for k in range(count):
                wide, high = rng.integers(100, 200, 2) if split == "val" else (8, 8)
                coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((int(wide), int(high)), Image.Resampling.BICUBIC)
                image.save(root / split / f"class-{label}" / f"{k}.jpg", quality=92)
    return root


@torch.no_grad()
def telling(network: KnownNetwork, folder: Path) -> nn.Module:
    """timm's network with weights under which images differ in their answers, which fresh ones hardly do."""
    torch.manual_seed(1)
    model = timm.create_model(network.name, num_classes=CLASSES)
    for name, parameter in model.named_parameters():
        if name.endswith(("gamma", "bn3.weight")):
            parameter.fill_(1.0)  # fresh, they leave the blocks without effect
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    timms_answer(model.train(), network, folder)
    logits, _ = timms_answer(model.eval(), network, folder)
    model.get_classifier().bias.sub_(logits.mean(0))
    return model


@torch.no_grad()
def timms_answer(model: nn.Module, network: KnownNetwork, folder: Path) -> tuple[Tensor, Tensor]:
    """Logits and labels of the validation images, by timm's data set, loader and transform."""
    dataset = create_dataset("", root=str(folder / "val"))
    loader = create_loader(
        dataset,
        input_size=(3, PIXELS, PIXELS),
        batch_size=10,
        use_prefetcher=False,
        interpolation=network.recipe.interpolation,
        crop_pct=network.recipe.test_crop,
        num_workers=0,
        persistent_workers=False,
    )
    found = [(model(images), labels) for images, labels in loader]
    return torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found])


@pytest.mark.slow
@pytest.mark.parametrize("network", KNOWN, ids=lambda n: n.name)
def test_a_known_network_scores_as_timm_scores_it(network: KnownNetwork, photographs: Path, tmp_path: Path) -> None:
    theirs = telling(network, photographs)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    logits, labels = timms_answer(theirs, network, photographs)
    assert len(set(logits.argmax(1).tolist())) > 1
    [top1] = accuracy(logits, labels)

    data = resolve_data("imagefolder", data_dir=photographs, image_size=32)  # another size than the network's
    small = replace(network, pixels=PIXELS, recipe=replace(network.recipe, batch_size=64, group_size=8))
    # In timm's memory format and, of ten images, in its batches too: then rounding is the same.
    runtime = Runtime(data_dir=photographs, channels_last=False)
    scores = known_scores(small, tmp_path / "weights.pth", data, runtime, Ranks())
    assert (scores.top1, scores.images) == (pytest.approx(top1.item(), abs=1e-9), len(labels))
    assert scores.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)

    ours = build_network(with_settings(network.spec, {"num_classes": CLASSES}), PIXELS).eval()
    load_weights(ours, tmp_path / "weights.pth")
    transform = eval_transform(network.recipe, replace(data, image_size=PIXELS))
    files = sorted((photographs / "val").rglob("*.jpg"))
    with torch.no_grad():
        own = ours(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
    torch.testing.assert_close(own, logits, rtol=1e-5, atol=1e-5)


def test_the_known_networks_are_those_whose_accuracy_is_printed() -> None:
    expected = {network.name: (network.top1, network.pixels, network.data) for network in KNOWN}
    assert expected == {"resnet50": (76.13, 224, "imagenet"), "convnext_tiny": (82.1, 224, "imagenet")}
    for network in KNOWN:
        assert network.passes(network.top1)
        assert not network.passes(network.top1 - 0.1) and not network.passes(float("nan"))


def test_weights_are_looked_up_in_the_caches_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repo, file: None)
    assert [cached_weights(network) for network in KNOWN] == [None, None]
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("resnet50-0676ba61.pth", "convnext_tiny_1k_224_ema.pth"):
        (folder / name).write_bytes(b"")
    assert [path and path.name for path in map(cached_weights, KNOWN)] == [p.name for p in sorted(folder.iterdir())][
        ::-1
    ]


class Opened(Exception):
    """Instead of training."""


def opened_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Runtime, object]]:
    """The settings and initial weights of each trainer that is made, which then raises Opened."""
    calls: list[tuple[Runtime, object]] = []

    def trainer(trial: Trial, pipeline: object, ranks: Ranks, runtime: Runtime, *, init: object = None) -> None:
        calls.append((runtime, init))
        raise Opened

    for module in (sanity, execution):
        monkeypatch.setattr(module, "Trainer", trainer)
        monkeypatch.setattr(module, "open_pipeline", lambda *_, **__: MagicMock())
    return calls


def test_first_epochs_start_from_the_trials_initial_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, weights = opened_with(monkeypatch), tmp_path / "weights"
    weights.write_bytes(b"weights")
    trial = replace(make_trial(), init=file_digest(weights))
    with pytest.raises(Opened):
        next(first_epochs(trial, Runtime(init=weights), Ranks(), 1))
    assert calls[0][1] is not None
    with pytest.raises(RoadmapError, match="--init is None"):
        next(first_epochs(trial, Runtime(), Ranks(), 1))


def test_known_networks_take_no_setting_that_was_meant_for_the_studys_training(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = opened_with(monkeypatch)
    with pytest.raises(Opened):
        known_scores(KNOWN[0], {}, make_trial().data, Runtime(compile=True, micro_batch=48), Ranks())
    assert calls[0][0] == Runtime()


def test_training_images_are_not_decoded_for_an_evaluation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("training images were decoded")

    monkeypatch.setattr("roadmap.data.pipeline.decode_all", decode)
    monkeypatch.setattr(sanity, "Trainer", MagicMock(side_effect=Opened))
    with pytest.raises(Opened):
        known_scores(KNOWN[0], {}, make_trial().data, Runtime(), Ranks())


@pytest.mark.slow
def test_first_epochs_are_those_of_the_run(tmp_path: Path) -> None:
    trial = make_trial(epochs=1, warmup_epochs=0, ema_decay=None)
    folder = make_run(tmp_path, trial)
    assert execute(folder, Runtime()).status == "finished"
    noted = [{name: line[name] for name in sanity.WATCHED} for line in folder.metrics()]
    assert list(first_epochs(trial, Runtime(), Ranks(), 3)) == [{k: pytest.approx(v) for k, v in noted[0].items()}]
