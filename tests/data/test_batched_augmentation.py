"""Batched augmentation gives timm's transforms as Pillow computes them, and each sample its own draws."""

import ast
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import InterpolationMode

import roadmap.data.batched_augmentation as batched
from roadmap.bench.augmentation import batched_operation, chains, fill_page, parity, sample_images, speed, tables_of
from roadmap.data.batched_augmentation import (
    CROP,
    ERASING,
    GEOMETRY,
    KERNELS,
    OPERATIONS,
    POLICY,
    Augmentation,
    Kernel,
    Keys,
    RandAugment,
)

POLICY_TEXT = "rand-m9-mstd0.5-inc1"
SAMPLES = 10_000
WHOLE = Augmentation(
    size=32,
    mean=(0.49, 0.48, 0.45),
    std=(0.25, 0.24, 0.26),
    crop="padded",
    kernel="random",
    policy=RandAugment.parse(POLICY_TEXT),
    erasing=0.5,
)


def keys(count: int, seed: int = 7, epoch: int = 0) -> Keys:
    return Keys(seed, torch.full((count,), epoch), torch.arange(count))


def pixels(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


# Draws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: tuple[int, ...], key: int, answer: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in batched.philox([torch.tensor(word) for word in counter], key)) == answer


def test_draws_are_uniform_and_differ_between_seeds_epochs_samples_and_purposes() -> None:
    u = keys(SAMPLES).uniform(CROP, 3)
    assert u.min() > 0
    assert u.max() < 1
    assert chisquare(np.histogram(u.numpy(), 64, (0, 1))[0]).pvalue > 1e-3
    assert abs(np.corrcoef(u.numpy().T)[~np.eye(3, dtype=bool)]).max() < 0.03
    others = (keys(SAMPLES, seed=8), CROP), (keys(SAMPLES, epoch=1), CROP), (keys(SAMPLES), POLICY)
    assert all((other.uniform(purpose, 3) != u).all() for other, purpose in others)
    assert u.dtype == torch.float64
    assert len(u.unique()) > 0.9999 * u.numel()


def test_more_draws_leave_the_first_as_they_are() -> None:
    assert torch.equal(keys(5).uniform(CROP, 3), keys(5).uniform(CROP, 22)[:, :3])


# One sample in any batch ----------------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize("crop", ["padded", "resized", "none"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_sample_is_the_same_to_the_bit_in_any_batch(crop: str, channels: int) -> None:
    augment = replace(WHOLE, crop=crop, mean=WHOLE.mean[:channels], std=WHOLE.std[:channels])
    images = pixels(sample_images(96, 32, 32))[:, :channels].contiguous()
    whole = augment(images, keys(96))
    order = torch.randperm(96)
    shuffled = augment(images[order], Keys(7, torch.zeros(96, dtype=torch.int64), order))
    alone = [
        augment(images[i : i + 1], Keys(7, torch.zeros(1, dtype=torch.int64), torch.tensor([i]))) for i in range(40)
    ]
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(torch.cat(alone), whole[:40])
    assert not torch.equal(augment(images, keys(96, epoch=1)), whole)  # negative control


def test_images_given_are_left_as_they_are() -> None:
    images = pixels(sample_images(16, 32, 32))
    before = images.clone()
    for crop in ("padded", "resized", "none"):
        replace(WHOLE, crop=crop)(images, keys(16))  # type: ignore[arg-type]
    assert torch.equal(images, before)


def test_everything_off_is_normalization() -> None:
    images = pixels(sample_images(8, 32, 32))
    plain = replace(WHOLE, crop="none", policy=None, erasing=0.0, flip=0.0)
    expected = F.normalize(images.float() / 255, list(WHOLE.mean), list(WHOLE.std))
    assert torch.equal(plain(images, keys(8)), expected)


# Pixels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(32, 32), (20, 28)])
def test_operations_are_pillows(name: str, size: tuple[int, int]) -> None:
    for kernel in KERNELS if name in GEOMETRY else KERNELS[:1]:
        found = parity(name, kernel, sample_images(12, *size, seed=1), levels=(0.0, 3.7, 8.4, 9.3, 10.0))
        assert found.largest <= (1 if name in GEOMETRY else 0)
        assert found.exact >= (0.995 if name in GEOMETRY else 1)


def test_a_change_of_level_or_sign_shows_in_the_comparison() -> None:  # negative control of the test above
    images = sample_images(8, 32, 32)
    for name in set(OPERATIONS) - {"AutoContrast", "Equalize", "Invert"}:
        here, there = (batched_operation(name, images, level, 1, "bilinear") for level in (9.0, 6.0))
        assert np.abs(here.astype(int) - there).mean() > 0.2
    for name in GEOMETRY:
        here, there = (batched_operation(name, images, 9.0, sign, "bilinear") for sign in (1, -1))
        assert np.abs(here.astype(int) - there).mean() > 1


def test_auto_contrast_is_exact_for_every_range() -> None:
    ranges = [(low, high) for low in range(0, 255, 6) for high in range(low + 1, 256, 4)]
    images = np.stack([np.arange(256, dtype=np.uint8).clip(*ends).reshape(16, 16, 1).repeat(3, 2) for ends in ranges])
    theirs = np.stack([np.asarray(AugmentOp("AutoContrast", prob=1.0)(Image.fromarray(image))) for image in images])
    assert np.array_equal(batched_operation("AutoContrast", images, 9.0, 1, "bilinear"), theirs)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("image", "size"), [((32, 32), 32), ((60, 90), 40), ((150, 200), 224)])
def test_resized_crops_are_pillows_to_the_bit(kernel: Kernel, image: tuple[int, int], size: int) -> None:
    images = sample_images(12, *image)
    boxes = batched.crop_boxes(keys(12), image, (0.08, 1.0), (3 / 4, 4 / 3))
    flipped = torch.arange(12) % 3 == 0
    ours = batched.resized_crop(pixels(images), boxes, flipped, size, kernel).permute(0, 2, 3, 1).numpy()
    for i in range(12):
        box = [int(x[i]) for x in (boxes.top, boxes.left, boxes.height, boxes.width)]
        one = F.resized_crop(Image.fromarray(images[i]), *box, [size, size], InterpolationMode(kernel))
        assert np.array_equal(ours[i], np.asarray(one)[:, ::-1] if flipped[i] else np.asarray(one))


def test_padded_crops_are_torchvisions() -> None:
    images = pixels(sample_images(81, 32, 32))
    top, left, flipped = torch.arange(81) // 9, torch.arange(81) % 9, torch.arange(81) % 2 == 0
    ours = batched.padded_crop(images, top, left, flipped, 4)
    for i in range(81):
        one = F.crop(F.pad(images[i], [4]), int(top[i]), int(left[i]), 32, 32)
        assert torch.equal(ours[i], one.flip(2) if flipped[i] else one)


# Distributions --------------------------------------------------------------------------------------------------------


class Recorder(AugmentOp):
    """timm's operation, which notes what it would do."""

    def __init__(self, op: AugmentOp, notes: list[tuple[str, float | None]]) -> None:
        self.__dict__.update(op.__dict__)
        self.notes = notes
        self.level_fn, level_fn = self._note, self.level_fn
        self.inner, self.aug_fn = level_fn, lambda image, *_, **__: image

    def _note(self, level: float, hparams: object) -> tuple[float, ...]:
        self.notes.append((self.name, level))
        return ()


def test_operations_and_magnitudes_are_drawn_as_timm_draws_them(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(0)
    np.random.seed(0)
    theirs: list[tuple[str, float | None]] = []
    chain = rand_augment_transform(POLICY_TEXT, {})
    chain.ops = [Recorder(op, theirs) for op in chain.ops]
    for _ in range(SAMPLES):
        chain(Image.new("RGB", (1, 1)))
    ours: list[tuple[str, float, float]] = []

    def note(name: str, images: Tensor, level: Tensor, sign: Tensor, kernel: Kernel, fill: Tensor) -> Tensor:
        ours.extend((name, *pair) for pair in zip(level.tolist(), sign.tolist(), strict=True))
        return images

    monkeypatch.setattr(batched, "apply", note)
    fill = torch.zeros(3, dtype=torch.uint8)
    RandAugment.parse(POLICY_TEXT)(torch.zeros(SAMPLES, 3, 1, 1, dtype=torch.uint8), keys(SAMPLES), "bilinear", fill)

    counts, timm_counts = Counter(name for name, *_ in ours), Counter(name for name, _ in theirs)
    assert set(counts) == set(timm_counts) == set(OPERATIONS)
    assert chisquare(list(counts.values())).pvalue > 1e-3
    assert abs(len(ours) - len(theirs)) < 5 * (SAMPLES * 2 * 0.25 * 2) ** 0.5
    assert ks_2samp([level for _, level, _ in ours], [level for _, level in theirs]).pvalue > 1e-3
    assert ks_2samp([level + 0.05 for _, level, _ in ours], [level for _, level in theirs]).pvalue < 1e-3  # control
    assert abs(np.mean([sign for *_, sign in ours])) < 0.03


def test_crop_boxes_are_drawn_as_timm_draws_them() -> None:
    random.seed(0)
    image, scale, ratio = (24, 40), (0.08, 1.0), (3 / 4, 4 / 3)
    get = RandomResizedCropAndInterpolation.get_params
    theirs = np.array([get(Image.new("L", image[::-1]), scale, ratio) for _ in range(SAMPLES)]).T
    boxes = batched.crop_boxes(keys(SAMPLES), image, scale, ratio)
    for ours, timm in zip((boxes.top, boxes.left, boxes.height, boxes.width), theirs, strict=True):
        assert ks_2samp(ours.numpy(), timm).pvalue > 1e-3
    assert ks_2samp(boxes.width.numpy() + 1, theirs[3]).pvalue < 1e-3  # negative control


def test_boxes_that_never_fit_are_the_central_ones_of_timm() -> None:
    get = RandomResizedCropAndInterpolation.get_params
    for image in ((8, 100), (100, 8)):
        expected = get(Image.new("L", image[::-1]), (0.9, 1.0), (3 / 4, 4 / 3))
        boxes = batched.crop_boxes(keys(4), image, (0.9, 1.0), (3 / 4, 4 / 3))
        assert {tuple(box) for box in torch.stack((boxes.top, boxes.left, boxes.height, boxes.width), 1).tolist()} == {
            expected
        }


def test_erased_rectangles_are_drawn_as_timm_draws_them_and_filled_with_normal_noise() -> None:
    torch.manual_seed(0)
    random.seed(0)
    count, missing = 4000, -100.0
    theirs = RandomErasing(0.25, mode="pixel", device="cpu")(torch.full((count, 3, 24, 32), missing))
    ours = batched.erase(torch.full((count, 3, 24, 32), missing), keys(count), 0.25)

    def shapes(images: Tensor) -> np.ndarray:
        erased = images[:, 0] != missing
        return torch.stack((erased.any(2).sum(1), erased.any(1).sum(1), erased.sum((1, 2))), 1).numpy()

    found, expected = shapes(ours), shapes(theirs)
    assert np.array_equal(found[:, 0] * found[:, 1], found[:, 2])  # whole rectangles
    assert abs((found[:, 2] > 0).mean() - 0.25) < 0.03
    for column in range(3):
        a, b = (x[x[:, 2] > 0, column] for x in (found, expected))
        assert ks_2samp(a, b).pvalue > 1e-3
    noise = ours[ours != missing]
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert ks_2samp(noise[:20000].numpy(), torch.randn(20000).numpy()).pvalue > 1e-3
    assert keys(count).uniform(ERASING, 1).shape == (count, 1)


# The file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["rand-m9", "rand-m9-inc0", "augmix-m3", "rand-m9-x3-inc1", "original", "rand-m-inc1"])
def test_other_policies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="legal: rand with sections"):
        RandAugment.parse(text)


def test_a_policy_is_read_as_timm_reads_it() -> None:
    assert RandAugment.parse("rand-m7-n3-mstd1.5-p0.3-inc1") == RandAugment(7, 1.5, 3, 0.3)
    assert RandAugment.parse("rand-inc1") == RandAugment()


def test_the_file_needs_torch_alone() -> None:
    tree = ast.parse(Path(batched.__file__).read_text())
    modules = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    allowed = {"__future__", "math", "re", "collections.abc", "dataclasses", "typing", "torch"}
    assert set(modules) <= allowed


def test_the_page_shows_the_record() -> None:
    root = Path(__file__).parents[2]
    record = json.loads((root / "results/bench/augmentation.json").read_text())
    page = (root / "docs/augmentation.md").read_text()
    hardware = record.pop("hardware")
    assert fill_page(page, tables_of(record, hardware)) == page
    assert {row["operation"] for row in record["parity"]} == set(OPERATIONS)
    assert max(row["largest"] for row in record["parity"]) <= 1


@pytest.mark.slow
def test_the_modern_recipe_is_several_times_as_fast_as_an_image_at_a_time() -> None:
    chain = next(c for c in chains() if "RandAugment (bilinear)" in c[0])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert speed(*chain, pairs=3).ratio > 8 / 1.25
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("crop", ["padded", "resized", "none"])
def test_nothing_reads_from_the_device(crop: str) -> None:
    """Tensors of the device `meta` have no values: reading one, or mixing devices, raises."""
    images = torch.empty(200, 3, 32, 32, dtype=torch.uint8, device="meta")
    found = replace(WHOLE, crop=crop)(images, keys(200))
    assert found.device.type == "meta"
    assert (found.shape, found.dtype) == ((200, 3, 32, 32), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_pixels() -> None:
    images = pixels(sample_images(256, 32, 32))
    augment = replace(WHOLE, erasing=0.0)
    here, there = augment(images, keys(256)), augment(images.cuda(), keys(256)).cpu()
    apart = ((here - there).abs() * 0.25 * 255).round()
    assert (apart > 0).float().mean() < 1e-3
