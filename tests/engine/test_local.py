"""The engine's promises with a stand-in job: order, bounded memory, broken images, out of memory, clean ends."""

import gc
import inspect
import logging
import os
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tests.engine.threads import threads_end

from anovl.config import Recipe
from anovl.core.scoring import Scores
from anovl.data.images import load_sized_image
from anovl.data.sources import SourceItem
from anovl.engine import pipeline
from anovl.engine.local import run
from anovl.errors import ImageDecodeError, OutOfMemoryError, UsageError
from anovl.results import Prediction


class MeanJob:
    """Scores an image by its mean grey; `fits` is the largest batch that does not run out of memory."""

    recipe = Recipe()

    def __init__(self, fits=10**9, error=None):
        self.fits, self.batches = fits, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def load(self, image):
        return load_sized_image(image)

    def preprocess(self, picture):
        return self.pixels(picture)

    def pixels(self, picture):
        return np.asarray(picture)

    def score(self, images):
        if len(images) > self.fits:
            raise self.error
        self.batches.append(len(images))
        mean = images.float().mean(dim=(1, 2, 3)) / 255
        return Scores(mean, mean[:, None, None].expand(-1, 2, 2))

    def finish(self, item, size, scores, timings):
        grid = scores.patch_scores
        return Prediction(item.image_path, size, "thing", float(scores.image_score), grid, grid, timings_ms=timings)


def grey(index, value=None):
    return SourceItem(np.full((4, 4), index % 256 if value is None else value, np.uint8), f"{index}", f"{index}")


def broken(index):
    return SourceItem(b"no image", f"{index}", f"{index}")


def test_results_in_the_order_of_the_source():
    class Uneven(MeanJob):
        def preprocess(self, picture):
            pixels = super().preprocess(picture)
            time.sleep(0.02 if pixels.mean() % 2 < 0.5 else 0)
            return pixels

    job = Uneven()
    outcomes = list(run(job, map(grey, range(23)), batch_size=4, workers=4))
    assert [outcome.item.image_path for outcome in outcomes] == [str(i) for i in range(23)]
    assert [round(outcome.prediction.pred_score * 255) for outcome in outcomes] == list(range(23))
    assert job.batches == [4, 4, 4, 4, 4, 3]


class SlowToFinish(MeanJob):
    """Notes in which thread each map is made; refuses batches from one on."""

    def __init__(self, fail_from=10**9):
        super().__init__()
        self.threads, self.fail_from = [], fail_from

    def score(self, images):
        if len(self.batches) >= self.fail_from:
            raise UsageError("the third batch is refused")
        return super().score(images)

    def finish(self, item, size, scores, timings):
        self.threads.append(threading.current_thread().name)
        return super().finish(item, size, scores, timings)


def test_maps_are_made_beside_the_model():
    job = SlowToFinish()
    outcomes = run(job, map(grey, range(9)), batch_size=3)
    next(outcomes)
    assert job.batches == [3, 3]  # the second batch did not wait for the maps of the first
    assert [outcome.item.key for outcome in outcomes] == [str(i) for i in range(1, 9)]
    assert all(name.startswith("anovl-finish") for name in job.threads)


def test_large_maps_wait_for_their_turn(monkeypatch):
    monkeypatch.setattr(pipeline, "MAPS_AHEAD", 2 * 4 * 16)  # two maps of 4x4
    job = SlowToFinish()
    outcomes = list(run(job, map(grey, range(6)), batch_size=6))
    assert [outcome.item.key for outcome in outcomes] == [str(i) for i in range(6)]
    assert sum(name.startswith("anovl-finish") for name in job.threads) == 2
    assert job.threads.count("MainThread") == 4


def test_what_was_scored_before_an_error_comes_out():
    seen = []
    with pytest.raises(UsageError, match="third batch"):  # noqa: PT012
        for outcome in run(SlowToFinish(fail_from=2), map(grey, range(9)), batch_size=3):
            seen.append(outcome.item.key)  # noqa: PERF401 -- what came before the error counts
    assert seen == [str(i) for i in range(6)]


def test_broken_images_keep_their_place():
    items = [broken(0), grey(1), grey(2), broken(3), broken(4), grey(5), broken(6)]
    outcomes = list(run(MeanJob(), items, batch_size=2))
    assert [outcome.error is not None for outcome in outcomes] == [True, False, False, True, True, False, True]
    assert [outcome.item.image_path for outcome in outcomes] == [str(i) for i in range(7)]
    assert isinstance(outcomes[0].error, ImageDecodeError)
    assert all((outcome.prediction is None) == (outcome.error is not None) for outcome in outcomes)


@pytest.mark.parametrize("change", ["grows", "is written anew", "is replaced"])
def test_a_file_that_changes_while_it_is_read_fails_alone(tmp_path, change):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)

    class Meanwhile(MeanJob):
        def load(self, image):
            loaded = super().load(image)
            if image == paths[1]:
                data = image.read_bytes()
                if change == "is replaced":
                    image.with_suffix(".new").write_bytes(data)
                    image.with_suffix(".new").replace(image)
                else:
                    image.write_bytes(data + b"more" if change == "grows" else data)
                    os.utime(image, ns=(0, 0))
            return loaded

    items = [SourceItem(path, path.name, path.stem) for path in paths]
    outcomes = list(run(Meanwhile(), items, batch_size=2))
    assert [outcome.prediction is None for outcome in outcomes] == [False, True, False]
    assert outcomes[1].error.reason == "changed while it was read, and may not be whole; try it again"


def test_files_that_vanish(tmp_path):
    """One that is gone before it is read fails alone; one that is gone once it was read whole is scored."""
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path in paths[:2]:
        Image.new("RGB", (4, 4)).save(path)

    class Spool(MeanJob):
        def load(self, image):
            loaded = super().load(image)
            image.unlink()
            return loaded

    outcomes = list(run(Spool(), [SourceItem(path, path.name, path.stem) for path in paths]))
    assert [outcome.prediction is None for outcome in outcomes] == [False, False, True]
    assert outcomes[2].error.reason == "no such file"


def test_what_was_scored_is_logged(caplog):
    caplog.set_level(logging.INFO, "anovl")
    list(run(MeanJob(), [grey(0), broken(1), grey(2)]))
    assert [record.message for record in caplog.records if "scored" in record.message] == ["scored 0", "scored 2"]


def test_many_broken_images_come_back_before_the_end():
    outcomes = run(MeanJob(), (broken(i) for i in range(10**9)), batch_size=2)
    assert [next(outcomes).item.image_path for _ in range(20)] == [str(i) for i in range(20)]
    outcomes.close()


def test_nothing_is_read_far_ahead():
    read = []

    def source():
        for i in range(1000):
            read.append(i)
            yield grey(i)

    outcomes = run(MeanJob(), source(), batch_size=4, workers=2)
    next(outcomes)
    assert len(read) <= 4 + 2 * (4 + 2)
    outcomes.close()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(caplog, error):
    job = MeanJob(fits=3, error=error)
    with caplog.at_level(logging.WARNING, "anovl"):
        outcomes = list(run(job, map(grey, range(20)), batch_size=8))
    assert [round(outcome.prediction.pred_score * 255) for outcome in outcomes] == list(range(20))
    assert max(job.batches) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with a batch of 8: going on with 4",
        "out of memory with a batch of 4: going on with 2",
    ]


def test_one_image_that_does_not_fit():
    with pytest.raises(OutOfMemoryError, match="one image alone"):
        list(run(MeanJob(fits=0), [grey(0)], batch_size=8))


def test_other_errors_of_the_model_are_not_swallowed():
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(run(MeanJob(fits=0, error=RuntimeError("shapes do not match")), [grey(0)]))


def test_closing_stops_the_threads():
    outcomes = run(MeanJob(), map(grey, range(1000)), batch_size=4, workers=3)
    next(outcomes)
    assert any(thread.name.startswith("anovl-decode") for thread in threading.enumerate())
    outcomes.close()
    assert threads_end()


def test_a_run_left_alone_ends_in_whatever_thread_collects_it():
    """Python collects garbage in any thread, while it starts another, say; waiting for threads there would wait for itself."""
    outcomes = run(MeanJob(), map(grey, range(1000)), batch_size=4)
    next(outcomes)
    ring = [outcomes]
    ring.append(ring)
    del outcomes, ring
    with getattr(threading, "_shutdown_locks_lock", threading.Lock()):  # held by Python itself where a thread starts or ends
        gc.collect()
    assert threads_end()


def test_a_broken_image_that_raises_closes_the_run():
    outcomes = run(MeanJob(), [grey(0), broken(1), *map(grey, range(2, 100))], batch_size=1)
    with pytest.raises(ImageDecodeError):
        list(pipeline.results(outcomes))
    assert inspect.getgeneratorstate(outcomes) == "GEN_CLOSED"
    assert threads_end()


def test_an_interrupt_stops_the_threads():
    class Interrupted(MeanJob):
        def score(self, images):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run(Interrupted(), map(grey, range(100))))
    assert not any(thread.name.startswith("anovl-decode") for thread in threading.enumerate())


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"workers": 0}])
def test_settings_below_one(settings):
    with pytest.raises(UsageError, match="at least 1"):
        list(run(MeanJob(), [grey(0)], **settings))


def test_empty_source():
    assert list(run(MeanJob(), [])) == []


def test_pictures_are_kept_on_demand_and_small():
    large = SourceItem(np.zeros((20, 4000), np.uint8), "large", "large")
    (outcome,) = run(MeanJob(), [large], keep_pictures=True)
    assert outcome.picture.size == (1600, 8)
    assert outcome.prediction.image_size == (20, 4000)
    (outcome,) = run(MeanJob(), [large])
    assert outcome.picture is None
    assert set(outcome.prediction.timings_ms) == {"decode", "resize", "encode"}
