"""Random fields and shapes on a square picture, all float32 and drawn from one generator.

Coordinates run from -1 to 1 over the picture, x to the right and y down, so that a thing has the same shape and colours at
any size; its grain is another, and where a defect lies is chosen among its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import fft

Field = NDArray[Any]  # float32 throughout


class LineGenerator(np.random.Generator):
    """Draws what all pictures of a line share from one key, and by `own` what differs from picture to picture from another."""

    def __init__(self, shared: Sequence[int], own: Sequence[int]) -> None:
        super().__init__(np.random.PCG64(shared))
        self.own = np.random.default_rng(own)


def slight(rng: np.random.Generator, spread: float) -> float:
    """How far one picture of a line is from what the line shares, normal with this deviation; 0 where there is no line."""
    return float(rng.own.normal(0, spread)) if isinstance(rng, LineGenerator) else 0.0


def white(rng: np.random.Generator, *shape: int) -> Field:
    """White noise, another in each picture of a line."""
    own = rng.own if isinstance(rng, LineGenerator) else rng
    return own.standard_normal(shape, dtype=np.float32)


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """(x, y) of the pixel centres, each [S, S]; not to be written to."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = (np.ascontiguousarray(axis) for axis in np.meshgrid(line, line))
    x.flags.writeable = y.flags.writeable = False
    return x, y


@lru_cache(maxsize=8)
def _frequencies(size: int) -> tuple[Field, Field]:
    """Cycles per picture of a real 2-D transform, (along x, along y)."""
    along_x = np.fft.rfftfreq(size, 1 / size).astype(np.float32)
    along_y = np.fft.fftfreq(size, 1 / size).astype(np.float32)
    return along_x[None, :], along_y[:, None]


def fractal(
    rng: np.random.Generator,
    size: int,
    slope: float = 1.5,
    *,
    low: float = 1.0,
    high: float | None = None,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> Field:
    """Gaussian noise with amplitude f ** -slope, mean 0 and standard deviation 1; another in each picture of a line.

    Args:
        rng: where the numbers come from.
        size: pixels of a side.
        slope: 0 is white, 1 pink (clouds with detail), 2 smooth hills.
        low, high: band of frequencies in cycles a picture.
        stretch: above 1 the structures are so many times longer along `angle` than across.
        angle: radians, 0 along x.

    Returns:
        [S, S]
    """
    fx, fy = _frequencies(size)
    if stretch == 1.0:
        power = fx * fx + fy * fy
    else:
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        power = ((fx * c + fy * s) * np.float32(stretch)) ** 2 + (fy * c - fx * s) ** 2
    inside = power >= low * low
    if high is not None:
        inside &= power <= high * high
    amplitude = np.where(inside, np.maximum(power, 1e-6) ** np.float32(-slope / 2), 0).astype(np.float32)
    source = rng.own if isinstance(rng, LineGenerator) else rng
    own = np.random.default_rng(int(source.integers(2**63)))  # what comes after does not depend on the size
    spectrum = own.standard_normal((2, *amplitude.shape), dtype=np.float32)
    field: Field = fft.irfft2((spectrum[0] + 1j * spectrum[1]) * amplitude, s=(size, size))
    deviation = float(field.std())
    return field if deviation == 0 else (field * np.float32(1 / deviation)).astype(np.float32)


def step(edge0: float, edge1: float, value: Field) -> Field:
    """Smooth step from 0 at edge0 to 1 at edge1."""
    t = np.clip((value - np.float32(edge0)) * np.float32(1 / (edge1 - edge0)), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def mix(a: Field, b: Field, weight: Field) -> Field:
    """A where the weight is 0, b where it is 1; a weight [S, S] serves [S, S, 3] too."""
    if 0 < weight.ndim < a.ndim:
        weight = weight[..., None]
    return (a + (b - a) * weight).astype(np.float32)


def blob(rng: np.random.Generator, size: int, centre: tuple[float, float], radius: float, *, ragged: float = 0.5) -> Field:
    """An irregular spot, 1 inside and 0 outside with an edge about a pixel wide, [S, S]."""
    x, y = grid(size)
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    distance = np.hypot((dx * c + dy * s) * np.float32(np.sqrt(squeeze)), (dy * c - dx * s) / np.float32(np.sqrt(squeeze)))
    edge = radius * (1 + ragged * fractal(rng, size, 1.6, low=min(0.8 / radius, size / 6)) * np.float32(0.5))
    width = max(2.0 / size, 0.04 * radius)
    return step(-width, width, edge - distance)


def stroke(
    rng: np.random.Generator,
    size: int,
    middle: tuple[float, float],
    length: float,
    width: float,
    *,
    angle: float,
    wander: float,
    branches: int = 0,
) -> Field:
    """A line that wanders, 0 to 1 with soft edges, [S, S].

    Args:
        middle: where it begins, both ways, in picture coordinates.
        length, width: likewise.
        angle: the direction it begins with.
        wander: how much the direction changes from step to step, radians.
        branches: lines of half the length that fork off.
    """
    fine = 3 if size <= 384 else 2
    canvas = Image.new("L", (size * fine, size * fine))
    pen = ImageDraw.Draw(canvas)
    scale = size * fine / 2
    thick = max(width * scale, 1.2 * fine * 0.5)
    todo = [(middle, angle, length / 2, thick), (middle, angle + np.pi, length / 2, thick)]
    forks = branches
    while todo:
        (px, py), heading, left, pen_width = todo.pop()
        steps = max(4, int(left / 0.03))
        drift = rng.normal(0, wander, steps)
        swell = np.clip(1 + np.cumsum(rng.normal(0, 0.12, steps)), 0.5, 1.6)
        points = [(px, py)]
        for i in range(steps):
            heading += drift[i]
            px, py = px + np.cos(heading) * left / steps, py + np.sin(heading) * left / steps
            points.append((px, py))
            a, b = points[-2], points[-1]
            taper = min(1.0, 3 * (steps - i) / steps)
            ends = ((a[0] + 1) * scale, (a[1] + 1) * scale, (b[0] + 1) * scale, (b[1] + 1) * scale)
            pen.line(ends, fill=255, width=max(1, round(pen_width * swell[i] * taper)))
        for _ in range(forks):
            at = points[int(rng.integers(1, len(points)))]
            turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
            todo.append((at, heading + turn, left * rng.uniform(0.25, 0.6), pen_width * 0.75))
        forks = 0
    return (np.asarray(canvas.reduce(fine), dtype=np.float32) / 255).astype(np.float32)
