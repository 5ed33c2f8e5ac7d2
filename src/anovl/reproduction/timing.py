"""Table 7's last column: milliseconds an image, all rows measured in turn in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from anovl.data.images import load_image
from anovl.engine.local import Stacked
from anovl.evaluation import Evaluation, Variant

ROUNDS = 9


def milliseconds(variants: Sequence[Variant], done: Evaluation, *, rounds: int = ROUNDS) -> dict[str, tuple[float, float]]:
    """Median and standard deviation of the time from pixels to scores, one image a batch as in the paper.

    The rows take turns, so that whatever else the machine does meets all of them. Decoding, text and up-sampling are left out;
    a first round warms up.

    Args:
        variants: the rows.
        done: what was evaluated; its first image is measured.
        rounds: how often.

    Returns:
        (median, standard deviation) in ms by the names of the variants.
    """
    category = done.dataset.categories[0]
    picture = load_image(category.test[0].image)
    jobs = [(variant.name, variant.job(category, done.seeds[:1])) for variant in variants]
    runs = [(name, Stacked(job), [job.pixels(picture)]) for name, job in jobs]
    times: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for turn in range(rounds + 1):
        for name, work, batch in runs:
            start = time.perf_counter()
            work.score(batch)  # waits for the device
            if turn:
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: (statistics.median(some), statistics.stdev(some)) for name, some in times.items()}
