"""The engine with several works: order, whose turn it is, errors and memory of one of them, clean ends; real models too."""

import gc
import logging
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from tests.engine.threads import threads_end

from anovl.data.sources import SourceItem
from anovl.engine import local, pipeline
from anovl.errors import ImageDecodeError, OutOfMemoryError, UsageError
from anovl.results import Prediction


class Stand:
    """A work whose device takes `seconds` a batch and holds at most `fits` images; it breaks at the image `breaks`."""

    def __init__(self, seconds=0.0, fits=10**9, breaks=None):
        self.seconds, self.fits, self.breaks, self.batches = seconds, fits, breaks, []

    def load(self, image):
        if image is None:
            raise ImageDecodeError("none", "is no image")
        return Image.new("L", (1, 1), image), (1, 1)

    def preprocess(self, picture):
        return picture.getpixel((0, 0))

    def score(self, batch):
        if len(batch) > self.fits:
            raise OutOfMemoryError("one image alone does not fit")
        if self.breaks in batch:
            raise UsageError(f"broke at {self.breaks}")
        self.batches.append(list(batch))
        time.sleep(self.seconds)
        return batch

    def finish(self, item, size, scores, timings):
        return scores


def items(values):
    return (SourceItem(value, str(index), str(index)) for index, value in enumerate(values))


def predictions(outcomes):
    return [outcome.prediction for outcome in outcomes]


def test_results_in_the_order_of_the_source_whichever_device_is_faster():
    works = [Stand(0.1), Stand()]
    outcomes = list(pipeline.run(works, items([*range(10), None, *range(11, 23)]), batch_size=4))
    assert predictions(outcomes) == [*range(10), None, *range(11, 23)]
    assert [outcome.item.key for outcome in outcomes] == [str(index) for index in range(23)]
    assert isinstance(outcomes[10].error, ImageDecodeError)
    assert sorted(value for work in works for batch in work.batches for value in batch) == [*range(10), *range(11, 23)]
    assert sorted(len(batch) for work in works for batch in work.batches) == [2, 4, 4, 4, 4, 4]
    assert len(works[1].batches) > len(works[0].batches) > 0


def test_both_devices_compute_at_the_same_time():
    together = threading.Barrier(2, timeout=10)

    class Waits(Stand):
        def score(self, batch):
            together.wait()  # for the other device
            return batch

    assert predictions(pipeline.run([Waits(), Waits()], items(range(16)), batch_size=4)) == list(range(16))


def test_nothing_is_read_far_ahead():
    read = []

    def source():
        for item in items(value % 256 for value in range(1000)):
            read.append(item)
            yield item

    outcomes = pipeline.run([Stand(), Stand()], source(), batch_size=4, workers=2)
    next(outcomes)
    time.sleep(0.1)
    assert len(read) <= 4 * 4 + 4 + 2  # a batch that is out, three under way, and one with its start that is being decoded
    outcomes.close()


@pytest.mark.parametrize("breaks", [0, 9, 22])
def test_what_was_scored_before_an_error_of_one_device_comes_out(breaks):
    seen = []
    with pytest.raises(UsageError, match=f"broke at {breaks}"):  # noqa: PT012
        for outcome in pipeline.run([Stand(0.01, breaks=breaks), Stand(breaks=breaks)], items(range(23)), batch_size=4):
            seen.append(outcome.prediction)  # noqa: PERF401 -- what came before the error counts
    assert seen == list(range(breaks // 4 * 4))
    assert threads_end()


def test_what_was_read_before_an_error_of_the_source_comes_out():
    def source():
        yield from items(range(12))
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):  # noqa: PT012
        for outcome in pipeline.run([Stand(0.02), Stand(0.02)], source(), batch_size=2, workers=1):
            seen.append(outcome.prediction)  # noqa: PERF401 -- what came before the error counts
    assert len(seen) >= 8
    assert seen == list(range(len(seen)))
    assert threads_end()


def test_out_of_memory_halves_the_batch_of_that_device_alone(caplog):
    small, large = Stand(0.005, fits=1), Stand(0.005)
    with caplog.at_level(logging.WARNING, "anovl"):
        assert predictions(pipeline.run([small, large], items(range(40)), batch_size=4)) == list(range(40))
    assert {len(batch) for batch in small.batches} == {1}
    assert {len(batch) for batch in large.batches} == {4}
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["2", "1"]


def test_one_image_that_does_not_fit_on_one_device():
    with pytest.raises(OutOfMemoryError, match="one image alone"):
        list(pipeline.run([Stand(fits=0), Stand(0.01)], items(range(40)), batch_size=4))
    assert threads_end()


def test_closing_stops_the_threads():
    outcomes = pipeline.run([Stand(0.01), Stand(0.01)], items(value % 256 for value in range(1000)), batch_size=4)
    next(outcomes)
    assert sum(thread.name.startswith("anovl-score") for thread in threading.enumerate()) == 2
    outcomes.close()
    assert threads_end()


def test_a_run_left_alone_ends():
    outcomes = pipeline.run([Stand(), Stand()], items(value % 256 for value in range(1000)), batch_size=4)
    next(outcomes)
    del outcomes
    gc.collect()
    assert threads_end()


def test_an_interrupt_of_one_device_stops_the_threads():
    class Interrupted(Stand):
        def score(self, batch):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(pipeline.run([Interrupted(), Stand(0.01)], items(range(100))))
    assert not any(thread.name.startswith("anovl-score") for thread in threading.enumerate())


def test_no_work():
    with pytest.raises(UsageError, match="expected at least one"):
        list(pipeline.run([], items(range(3))))


@pytest.mark.parametrize("adapt", [False, True])
def test_two_models_give_what_one_gives(small, adapt):
    """23 images in batches of 4: scores and maps, in order."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64 + index, 3), dtype=np.uint8) for index in range(23)]
    one, two = small(), small()
    two.replicas = (two._on(torch.device("cpu")),)
    assert two.device == "cpu,cpu"
    assert two.replicas[0].backbone.clip is not two.backbone.clip
    settings = {"adapt": adapt, "seed": (0, 1)} if adapt else {}
    expected, found = (list(model.stream(pictures, "nut", batch_size=4, **settings)) for model in (one, two))
    assert [each.image_size for each in found] == [(64, 64 + index) for index in range(23)]
    for own, other in zip(expected, found, strict=True):
        assert isinstance(other, Prediction)
        assert other.pred_score == pytest.approx(own.pred_score, abs=1e-6)
        np.testing.assert_allclose(other.anomaly_map, own.anomaly_map, atol=1e-6, rtol=0)
    if adapt:
        assert found[0].pred_score_std == pytest.approx(expected[0].pred_score_std, abs=1e-6)


def test_every_replica_scores(small):
    """Each job of `per_device` alone gives the same, adapted too."""
    model = small()
    model.replicas = (model._on(torch.device("cpu")), model._on(torch.device("cpu")))
    picture = SourceItem(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), None, "image")
    jobs = model.job("nut", adapt=True).per_device()
    assert len({id(job.detector.backbone.clip) for job in jobs}) == 3
    scores = [next(local.run(job, [picture])).prediction.pred_score for job in jobs]
    assert scores == [scores[0]] * 3


def test_replicas_change_with_their_detector(small):
    model = small()
    model.replicas = (model._on(torch.device("cpu")),)
    for changed in (model.with_method("winclip"), model.with_recipe("paper")):
        (replica,) = changed.replicas
        assert type(replica.method) is type(changed.method)
        assert replica.recipe == changed.recipe
        assert replica.backbone is model.replicas[0].backbone
    profile = model.calibrate([np.full((64, 64), value, np.uint8) for value in range(5)], "nut", fpr=0.5)
    calibrated = model.with_profile(profile)
    assert calibrated.replicas[0].threshold == calibrated.threshold == profile.image_threshold
