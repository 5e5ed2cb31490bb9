"""`pipeline: tensor` for images that are not held in memory: threads give the batches that memory gives."""

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from roadmap.cli.main import _runtime, parser
from roadmap.config.errors import DataError
from roadmap.config.runtime import LoaderName, Runtime
from roadmap.config.seeds import SAMPLE, derive
from roadmap.data import held, thread_stream
from roadmap.data.batched_augmentation import Keys
from roadmap.data.pipeline import Pipeline
from roadmap.data.registry import resolve_data
from roadmap.data.tensor_stream import batched_augmentation
from roadmap.data.thread_stream import MAPS, check_loader
from roadmap.train.execute import execute
from tests.data.test_tensor_stream import RECIPE, Batches, batches, same, trial_of
from tests.helpers.launches import eventually
from tests.helpers.small_runs import make_run

MakeFolder = Callable[..., Path]
COUNTS = {"train": 10, "test": 2}


@pytest.fixture(params=get_args(LoaderName))
def loader(request: pytest.FixtureRequest) -> LoaderName:
    if request.param == "spdl" and importlib.util.find_spec("spdl") is None:
        pytest.skip("spdl-core is not installed")
    return request.param


def of_folder(folder: Path, *, loader: LoaderName = "threads", workers: int = 3, **recipe: object) -> Pipeline:
    data = replace(resolve_data("imagefolder", data_dir=folder, image_size=16), validation=0.2)
    small = replace(RECIPE, batch_size=8, group_size=4, **recipe)  # type: ignore[arg-type]
    return Pipeline.open(trial_of(data, small), data_dir=folder, workers=workers, loader=loader)


@pytest.fixture
def by_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Pipeline]:
    """Open a folder as one that memory does not hold, in batches of a group."""

    def opened(folder: Path, **more: object) -> Pipeline:
        with monkeypatch.context() as small:
            small.setattr(held, "HELD_BYTES", 1000)
            pipeline = of_folder(folder, **more)  # type: ignore[arg-type]
        assert pipeline.decoded is None
        return pipeline

    monkeypatch.setattr(thread_stream, "CHUNK_PIXELS", 1)
    return opened


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("crop", ["padded", "none", "resized"])
def test_threads_give_the_batches_of_images_in_memory_to_the_bit(
    image_folder: MakeFolder,
    by_threads: Callable[..., Pipeline],
    loader: LoaderName,
    crop: str,
    interpolation: str,
) -> None:
    folder, how = image_folder(size=40, counts=COUNTS), {"crop": crop, "interpolation": interpolation}
    in_memory = of_folder(folder, **how)
    assert in_memory.augmented_at_once is not None
    assert same(batches(by_threads(folder, loader=loader, **how)), batches(in_memory))
    eventually(lambda: not loader_threads(), seconds=10)  # SPDL's source may be in the middle of a draw


def test_the_stream_is_the_same_for_any_threads_ranks_and_start(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = image_folder(counts=COUNTS)
    alone = batches(by_threads(folder, crop="resized", workers=0))
    pipeline = by_threads(folder, crop="resized", workers=5)
    monkeypatch.setattr(thread_stream, "AHEAD", 1)
    shares = [batches(pipeline, rank=rank, world_size=2) for rank in range(2)]
    assert same([group for turn in zip(*shares, strict=True) for group in turn], alone)
    monkeypatch.setattr(thread_stream, "CHUNK_PIXELS", 1 << 20)  # all in one batch
    assert same(batches(pipeline, start=1), alone[pipeline.trial.recipe.groups :])


def test_images_of_several_sizes_go_by_threads_where_the_crop_needs_them_whole(
    image_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_folder(counts=COUNTS)
    for k in range(5):
        grown = Image.open(folder / "train" / "cat" / f"00{k}.png").resize((20 + 9 * k, 50))
        grown.save(folder / "train" / "cat" / f"00{k}.png")
    pipeline = of_folder(folder, crop="resized")
    assert "20 training images of several sizes are decoded into memory" in capsys.readouterr().err
    keys = [key for group in pipeline.sampler() for key in group]
    given = torch.cat([images for images, _ in batches(pipeline)])
    assert torch.equal(given, torch.cat([alone(pipeline, *key) for key in keys]))
    assert pipeline.augmented_at_once is None and of_folder(folder, crop="padded").augmented_at_once is not None


def alone(pipeline: Pipeline, epoch: int, position: int) -> torch.Tensor:
    """The sample as the batched crop and all that follows make it of a batch of one."""
    index = int(pipeline.train_indices[position])
    pixels = torch.from_numpy(np.array(pipeline.train.image(index))).permute(2, 0, 1)[None]
    keys = Keys(derive(pipeline.trial.seed, SAMPLE), torch.tensor([epoch]), torch.tensor([index]))
    return batched_augmentation(pipeline.trial.recipe, pipeline.trial.data)(pixels, keys)


def test_a_folder_too_large_for_memory_is_not_decoded_at_the_start(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], capsys: pytest.CaptureFixture[str]
) -> None:
    by_threads(image_folder(counts=COUNTS))
    assert "20 training images are decoded at each use: all take more than 9.31e-07 GiB" in capsys.readouterr().err


@pytest.mark.parametrize("grey_crop", ["padded", "resized"])
def test_grey_images_stay_in_one_channel(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], grey_crop: str
) -> None:
    pipeline = by_threads(image_folder(counts=COUNTS), crop=grey_crop)
    data = replace(pipeline.trial.data, in_chans=1, mean=(0.5,), std=(0.25,))
    grey = replace(pipeline, trial=trial_of(data, pipeline.trial.recipe), train=replace(pipeline.train, mode="L"))
    assert {images.shape for images, _ in batches(grey)} == {(4, 1, 16, 16)}


def damaged(folder: Path) -> Path:
    """One of two classes' ten images is cut off in its middle, all other files are whole."""
    file = folder / "train" / "dog" / "004.png"
    file.write_bytes(file.read_bytes()[:300])
    return file


def test_a_damaged_image_is_named_and_ends_the_threads(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], loader: LoaderName
) -> None:
    folder = image_folder(counts=COUNTS)
    file = damaged(folder)
    pipeline = by_threads(folder, loader=loader, epochs=8)
    with pytest.raises(DataError, match=f"image {file} cannot be decoded: .*; replace or remove it"):
        batches(pipeline)
    eventually(lambda: not loader_threads(), seconds=10)  # SPDL's source may be in the middle of a draw


def test_closing_the_stream_ends_the_threads(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], loader: LoaderName
) -> None:
    pipeline = by_threads(image_folder(counts=COUNTS), loader=loader, epochs=500)
    with pipeline.stream(pipeline.sampler()) as stream:
        taken: Batches = [next(stream)]
        assert loader_threads()
        kept = stream._iterator  # as the trace of an error would keep it
    eventually(lambda: not loader_threads(), seconds=10)  # SPDL's source may be in the middle of a draw
    assert torch.is_tensor(taken[0][0])
    assert next(kept, None) is None  # type: ignore[call-overload]


def test_evaluation_may_start_its_processes_while_the_threads_work(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], loader: LoaderName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadmap.data.pipeline.HELD_BYTES", 0)
    pipeline = by_threads(image_folder(counts=COUNTS), loader=loader, workers=2, epochs=500)
    with pipeline.stream(pipeline.sampler()) as stream:
        next(stream)
        passes = [[len(labels) for _, labels in pipeline.views("validation")] for _ in range(2)]
        next(stream)
    pipeline.close()
    assert passes == [[4], [4]]


def test_a_run_learns_the_same_by_threads_as_from_memory(
    image_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = image_folder(counts=COUNTS)
    trial = of_folder(folder, crop="resized", epochs=1).trial
    losses = []
    for held_bytes in (1 << 20, 1000):
        monkeypatch.setattr(held, "HELD_BYTES", held_bytes)
        run = make_run(tmp_path / str(held_bytes), trial)
        assert execute(run, Runtime(data_dir=folder, threads=1, workers=2)).status == "finished"
        losses.append(run.metrics()[-1]["train_loss"])
    assert losses[0] == losses[1]


def test_few_images_are_ahead_of_training(
    image_folder: MakeFolder, by_threads: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_stream, "AHEAD", 2)
    pipeline = by_threads(image_folder(counts=COUNTS), epochs=500)  # in batches of four images
    handed: list[int] = []
    groups = pipeline.sampler()

    def counted() -> object:
        for group in groups:
            handed.append(len(group))
            yield group

    with pipeline.stream(counted()) as stream:  # type: ignore[arg-type]
        next(stream)
        assert sum(handed) <= 4 * (1 + 2 + 1)  # the one taken, those ahead, and the one that is being handed out


def test_spdl_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(thread_stream.importlib, "import_module", missing)
    with pytest.raises(DataError, match="'spdl' cannot be loaded .*; run `pip install spdl-core`"):
        check_loader("spdl")
    check_loader("threads")


def test_every_loader_of_the_settings_is_there() -> None:
    assert set(MAPS) == set(get_args(LoaderName))
    assert Runtime().loader == "threads"
    option = _runtime(parser().parse_args(["run", "--step", "9", "--loader", "spdl"]))
    assert Runtime.from_json(option.to_json()).loader == "spdl"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_on_the_gpu(image_folder: MakeFolder, by_threads: Callable[..., Pipeline]) -> None:
    here = by_threads(image_folder(counts=COUNTS), crop="resized", augmentation="none")
    there = batches(replace(here, device=torch.device("cuda")))
    assert {images.device.type for images, _ in there} == {"cuda"}
    for (x, _), (y, _) in zip(batches(here), there, strict=True):
        torch.testing.assert_close(x, y.cpu(), rtol=0, atol=1e-4)
