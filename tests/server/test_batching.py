"""What the batcher and the admission promise."""

import threading
import time
import weakref
from concurrent.futures import wait

import pytest

from anovl.errors import AnovlError, OutOfMemoryError
from anovl.server.batching import Admission, Batcher
from anovl.server.problems import Problem


class Job:
    """Doubles numbers; waits for its gate; `bad` numbers fail; more than `room` at once are out of memory."""

    def __init__(self, *, bad=(), room=99, error=ValueError):
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.batches = []
        self.bad, self.room, self.error = set(bad), room, error

    def score(self, batch):
        self.begun.set()
        assert self.gate.wait(10)
        if len(batch) > self.room:
            raise OutOfMemoryError("full")
        self.batches.append(list(batch))
        if broken := self.bad & set(batch):
            raise self.error(f"cannot double {sorted(broken)}")
        return [2 * number for number in batch]


@pytest.fixture
def batcher():
    made = []

    def build(batch_size=4, max_wait_s=0.0, **settings):
        made.append(Batcher("test", batch_size=batch_size, max_wait_s=max_wait_s, **settings))
        return made[-1]

    yield build
    for one in made:
        one.close(10)


def held(batcher):
    """A batcher whose thread is busy with a job of its own until the gate opens."""
    first = Job()
    future = batcher.submit(first, 0)
    assert first.begun.wait(10)
    return first, future


def results(futures):
    return [future.result(10) for future in futures]


def test_batches_are_full_and_in_order(batcher):
    sizes = []
    one = batcher(observe=sizes.append)
    holder, _ = held(one)
    job = Job()
    job.gate.set()
    futures = [one.submit(job, number) for number in range(10)]
    holder.gate.set()
    assert results(futures) == [2 * number for number in range(10)]
    assert job.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert sizes == [1, 4, 4, 2]


def test_jobs_do_not_mix_and_the_oldest_goes_first(batcher):
    one = batcher()
    holder, _ = held(one)
    jobs = [Job(), Job()]
    for job in jobs:
        job.gate.set()
    futures = [one.submit(jobs[number % 2], number) for number in range(6)]
    holder.gate.set()
    assert results(futures) == [0, 2, 4, 6, 8, 10]
    assert [job.batches for job in jobs] == [[[0, 2, 4]], [[1, 3, 5]]]


def test_an_image_waits_for_others_so_long_and_no_longer(batcher):
    one = batcher(max_wait_s=0.3)
    job = Job()
    job.gate.set()
    began = time.monotonic()
    first = one.submit(job, 1)
    time.sleep(0.05)
    second = one.submit(job, 2)
    assert results([first, second]) == [2, 4]
    assert 0.25 < time.monotonic() - began < 2
    assert job.batches == [[1, 2]]
    patient = batcher(max_wait_s=60)
    assert results([patient.submit(job, number) for number in range(4)]) == [0, 2, 4, 6]  # a full batch waits for nothing


@pytest.mark.parametrize("error", [ValueError, AnovlError])
def test_an_error_reaches_the_image_that_caused_it_alone(batcher, error):
    one = batcher(batch_size=8)
    holder, _ = held(one)
    job = Job(bad=[5], error=error)
    job.gate.set()
    futures = [one.submit(job, number) for number in range(8)]
    holder.gate.set()
    wait(futures, 10)
    assert [future.exception() is None for future in futures] == [number != 5 for number in range(8)]
    with pytest.raises(error, match=r"cannot double \[5\]"):
        futures[5].result()


def test_a_wrong_number_of_scores_is_an_error(batcher):
    class Short(Job):
        def score(self, batch):
            return []

    with pytest.raises(AnovlError, match="0 scores for 1 images"):
        batcher().submit(Short(), 1).result(10)


def test_out_of_memory_halves_the_batch_for_good(batcher):
    one = batcher(batch_size=8)
    holder, _ = held(one)
    job = Job(room=2)
    job.gate.set()
    futures = [one.submit(job, number) for number in range(16)]
    holder.gate.set()
    assert results(futures) == [2 * number for number in range(16)]
    assert one.batch_size == 2
    assert all(len(batch) == 2 for batch in job.batches)


def test_cancelled_images_are_left_out(batcher):
    one = batcher()
    holder, _ = held(one)
    job = Job()
    job.gate.set()
    futures = [one.submit(job, number) for number in range(3)]
    assert futures[1].cancel()
    holder.gate.set()
    assert results([futures[0], futures[2]]) == [0, 4]
    assert job.batches == [[0, 2]]


def test_an_image_that_is_given_up_is_let_go(batcher):
    class Large:
        pass

    one = batcher(max_wait_s=0.2)
    holder, _ = held(one)
    job, large = Job(), Large()
    job.gate.set()
    seen = weakref.ref(large)
    future = one.submit(job, large)
    assert future.cancel()
    del large, future
    assert seen() is None
    holder.gate.set()
    assert one.submit(job, 1).result(10) == 2
    alone = one.submit(job, 2)
    time.sleep(0.05)  # it waits for others
    alone.cancel()
    time.sleep(0.3)
    assert one.submit(job, 3).result(10) == 6
    assert job.batches == [[1], [3]]


def test_closing_finishes_what_was_accepted(batcher):
    one = batcher(max_wait_s=0.5)
    holder, first = held(one)
    job = Job()
    job.gate.set()
    futures = [one.submit(job, number) for number in range(6)]
    one.close(0)
    with pytest.raises(AnovlError, match="closed"):
        one.submit(job, 7)
    holder.gate.set()
    assert results([first, *futures]) == [0, 0, 2, 4, 6, 8, 10]
    one.close(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "test"]


def test_admission_gives_back_what_it_lent():
    door = Admission(images=4, body_bytes=100, pixels=9)
    with door.ticket() as one, door.ticket() as two:
        one.take_images(3)
        with pytest.raises(Problem, match=r"3 of 4 .* 2 more came") as refused:
            two.take_images(2)
        assert refused.value.status == 429
        assert refused.value.headers == {"Retry-After": "1"}
        two.take_images(1)
        with pytest.raises(Problem, match="4 of 4"), door.ticket():
            pass
        two.take_bytes(60)
        with pytest.raises(Problem, match="60 bytes"):
            one.take_bytes(50)
        two.take_pixels(9)
        with pytest.raises(Problem, match="9 pixels"):
            one.take_pixels(1)
        assert (door.images, door.body_bytes, door.pixels) == (4, 60, 9)
    assert (door.images, door.body_bytes, door.pixels) == (0, 0, 0)
