"""Scores in sorted runs, in memory up to a budget and in a file beyond it, counted from the highest down."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anovl.metrics.spill import SpilledArray, SpillFile
from anovl.metrics.steps import Array, Steps, Totals, count_steps

BYTES_A_SCORE = 200  # at most, of an anomalous item in float64 while its stretch is counted


@dataclass(frozen=True)
class Run:
    """Scores and what each adds to the overlap.

    Attributes:
        scores: [N], rising, except where a run is still to be sorted.
        shares: [N]; None for good items, which have none.
    """

    scores: Array | SpilledArray
    shares: Array | SpilledArray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, part: slice) -> Run:
        return Run(self.scores[part], None if self.shares is None else self.shares[part])

    def load(self) -> Run:
        """The same in memory."""
        return Run(np.asarray(self.scores), None if self.shares is None else np.asarray(self.shares))

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(column.nbytes for column in (self.scores, self.shares) if isinstance(column, np.ndarray))


def join(runs: Sequence[Run]) -> tuple[Array, Array]:
    """Scores, rising, and shares of all runs together; no shares for good items."""
    scores = np.concatenate([run.scores for run in runs]) if runs else np.empty(0)
    shares = [run.shares for run in runs if run.shares is not None]
    if not shares:
        scores.sort()
        return scores, np.empty(0)
    order = np.argsort(scores)
    return scores[order], np.concatenate(shares)[order]


class Store:
    """A growing multiset of scores of one kind.

    Args:
        memory: bytes to hold before a run is written; sorting takes as much again.
        file: takes the runs.
    """

    def __init__(self, memory: int, file: SpillFile) -> None:
        self._memory, self._file = memory, file
        self._pending: list[Run] = []  # to be sorted
        self._runs: list[Run] = []
        self._held = 0  # bytes

    def add(self, run: Run) -> None:
        """Take in scores in any order, in arrays that nobody changes later."""
        if len(run):
            self._pending.append(run)
            self._held += run.nbytes

    def extend(self, runs: Sequence[Run], *, own: bool) -> None:
        """Take in sorted runs, whose memory counts as held here if they are its own."""
        self._runs += runs
        self._held += own * sum(run.nbytes for run in runs)

    def runs(self) -> list[Run]:
        """All of it, sorted."""
        if self._pending:
            scores, shares = join(self._pending)
            self._runs.append(Run(scores, None if self._pending[0].shares is None else shares))
            self._pending = []
        return list(self._runs)

    def spill(self) -> None:
        """Write what is in memory if that is more than allowed.

        Raises:
            OutputError: it cannot be written; it stays in memory.
        """
        if self._held > self._memory:
            held = [run for run in self._runs if run.nbytes] + self._pending
            scores, shares = join(held)
            written = Run(self._file.append(scores), None if held[0].shares is None else self._file.append(shares))
            self._runs = [*(run for run in self._runs if not run.nbytes), written]
            self._pending, self._held = [], 0


def descend(good: Sequence[Run], bad: Sequence[Run], memory: int) -> Iterator[Steps]:
    """All steps, in stretches that fit into memory, from the highest score down to the lowest anomalous one.

    Of each run the highest scores left are read. What lies above all that is unread is joined and counted. The
    border itself is counted without being held, however often it occurs, so every stretch ends between two scores.

    Args:
        good, bad: sorted runs, at least one in all.
        memory: bytes.
    """
    runs = [*good, *bad]
    block = max(1, memory // (BYTES_A_SCORE * len(runs)))
    left = [len(run) for run in runs]  # of each the scores that are still to be counted: its lowest
    before = Totals()
    while any(left[len(good) :]):
        starts = [max(0, end - block) for end in left]
        chunks = [run[start:end].load() for run, start, end in zip(runs, starts, left, strict=True)]
        border = max((chunk.scores[0] for chunk, start in zip(chunks, starts, strict=True) if start), default=None)
        cuts = [0 if border is None else bisect_right(chunk.scores, border) for chunk in chunks]
        above = [chunk[cut:] for chunk, cut in zip(chunks, cuts, strict=True)]
        steps, before = count_steps(join(above[: len(good)])[0], *join(above[len(good) :]), before)
        yield steps
        left = [start + cut for start, cut in zip(starts, cuts, strict=True)]
        if border is not None:
            below = [start + bisect_left(chunk.scores, border) for chunk, start in zip(chunks, starts, strict=True)]
            for index, start in enumerate(starts):
                if below[index] == start:  # more of them may be unread
                    below[index] = bisect_left(runs[index].scores, border, 0, start)
            ties = [run[start:end] for run, start, end in zip(runs, below, left, strict=True)]
            steps, before = _count_border(border, ties[: len(good)], ties[len(good) :], block, before)
            yield steps
            left = below


def _count_border(border: Any, good: Sequence[Run], bad: Sequence[Run], block: int, before: Totals) -> tuple[Steps, Totals]:
    """The one step of a score, or none if it is of good items alone, and the counts down to it."""
    hits = before.hits + sum(map(len, bad))
    parts = (run.shares[i : i + block] for run in bad if run.shares is not None for i in range(0, len(run), block))
    overlap = before.overlap + sum(float(np.sum(part)) for part in parts)
    after = Totals(before.good + sum(map(len, good)), hits, overlap)
    columns = ([border], [before.good], [after.good], [after.hits], [after.overlap])
    return Steps(*(np.array(column[: int(hits > before.hits)]) for column in columns)), after
