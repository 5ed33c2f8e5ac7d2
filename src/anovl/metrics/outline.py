"""Curves for a plot, of a few hundred points whatever the number of scores."""

from __future__ import annotations

import numpy as np

from anovl.metrics.steps import Array, Steps, Whole, corners

Curve = tuple[tuple[float, float], ...]

GRID = 150  # cells a unit of the way along a curve, which is at most 2 long: so at most 300 points, and the ends


class Outline:
    """Curves from steps that are added from the highest scores down."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self._last = (0.0, 0.0, 0.0)  # good items, hits and overlap at the last step
        self._roc: dict[int, tuple[float, float]] = {}  # cell of the grid: its last point
        self._pr: dict[int, tuple[float, float]] = {}
        self._pro: dict[int, tuple[float, float]] = {}

    def add(self, steps: Steps) -> None:
        """Take in the next stretch."""
        if not steps.value.size:
            return
        whole, (at, hits, overlap) = self._whole, self._last
        x, y = corners(steps, steps.hits, at, hits)
        _thin(self._roc, x / whole.good, y / whole.bad, x / whole.good + y / whole.bad)
        recall, precision = steps.hits / whole.bad, steps.hits / (steps.hits + steps.at)
        _thin(self._pr, recall, precision, 2 * recall)
        if whole.regions:
            x, y = corners(steps, steps.overlap, at, overlap)
            _thin(self._pro, x / whole.good, y / whole.regions, x / whole.good + y / whole.regions)
        self._last = (float(steps.at[-1]), float(steps.hits[-1]), float(steps.overlap[-1]))

    def curves(self) -> dict[str, Curve]:
        """Points (x, y) of each curve, thinned to what a plot can show; figures never come from them.

        Returns:
            "roc": false-positive rate and recall, from (0, 0) to (1, 1); "pr": recall, rising, and precision;
            with regions "pro": false-positive rate up to the limit, and mean overlap.
        """
        found: dict[str, Curve] = {"roc": _whole_line(self._roc), "pr": tuple(self._pr.values())}
        if self._whole.regions:
            limit, points = self._whole.limit, _whole_line(self._pro)
            x, y = np.array(points).T
            found["pro"] = (*(point for point in points if point[0] < limit), (limit, float(np.interp(limit, x, y))))
        return found


def _whole_line(points: dict[int, tuple[float, float]]) -> Curve:
    """The points with both ends, none twice."""
    return tuple(dict.fromkeys([(0.0, 0.0), *points.values(), (1.0, 1.0)]))


def _thin(points: dict[int, tuple[float, float]], x: Array, y: Array, way: Array) -> None:
    """Keep the last point of each cell of the way, which never falls."""
    cell = (way * GRID).astype(np.int64)
    last = np.flatnonzero(np.append(cell[1:] != cell[:-1], True))
    points.update(zip(cell[last].tolist(), zip(x[last].tolist(), y[last].tolist(), strict=True), strict=True))
