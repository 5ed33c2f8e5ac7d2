"""Parts of a thing: signed distance functions, the part made of one, and how parts are put on each other.

A signed distance function takes (x, y) and is negative inside; a unit is half a thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anovl.data.synthetic.fields import Field, fractal
from anovl.data.synthetic.textures import Surface

Shape = Callable[[Field, Field], Field]


@dataclass
class Part:
    """One piece of a thing.

    Attributes:
        shape: its signed distance function.
        colour: [3].
        height: how far it stands out, in picture widths.
        bevel: width of its rounded edge; as wide as the part makes it round all over.
        grain: strength of the noise on its surface.
        loose: it may be missing or misplaced; `centre` is where it sits.
        cut: it takes away what lies under it.
    """

    shape: Shape
    colour: Field
    height: float = 0.03
    bevel: float = 0.08
    grain: float = 0.05
    loose: bool = False
    centre: tuple[float, float] = (0.0, 0.0)
    cut: bool = False


def circle(radius: float, cx: float = 0.0, cy: float = 0.0) -> Shape:
    """A disc."""
    return lambda x, y: np.hypot(x - np.float32(cx), y - np.float32(cy)) - np.float32(radius)


def box(half_width: float, half_height: float, cx: float = 0.0, cy: float = 0.0, *, corner: float = 0.02) -> Shape:
    """A rectangle with rounded corners."""

    def distance(x: Field, y: Field) -> Field:
        dx = np.abs(x - np.float32(cx)) - np.float32(half_width - corner)
        dy = np.abs(y - np.float32(cy)) - np.float32(half_height - corner)
        outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
        return (outside + np.minimum(np.maximum(dx, dy), 0) - np.float32(corner)).astype(np.float32)

    return distance


def ring(outer: float, inner: float, cx: float = 0.0, cy: float = 0.0) -> Shape:
    """A disc with a hole."""
    middle, half = (outer + inner) / 2, (outer - inner) / 2
    return lambda x, y: np.abs(np.hypot(x - np.float32(cx), y - np.float32(cy)) - np.float32(middle)) - np.float32(half)


def polygon(sides: int, radius: float, *, turn: float = 0.0) -> Shape:
    """A regular polygon with an inscribed circle of this radius."""

    def distance(x: Field, y: Field) -> Field:
        sector = np.float32(2 * np.pi / sides)
        angle: Field = np.arctan2(y, x) + np.float32(turn)
        angle = angle - np.round(angle / sector) * sector
        return (np.hypot(x, y) * np.cos(angle) - np.float32(radius)).astype(np.float32)

    return distance


def wavy(radius: float, depth: float, teeth: int, *, square: float = 1.0) -> Shape:
    """A disc whose edge goes up and down: gears (square 4), crown caps (square 1)."""

    def distance(x: Field, y: Field) -> Field:
        wave = np.cos(np.arctan2(y, x) * np.float32(teeth))
        edge = np.clip(wave * np.float32(square), -1, 1) * np.float32(depth)
        return (np.hypot(x, y) - np.float32(radius) - edge).astype(np.float32)

    return distance


def capsule(half_length: float, radius: float, cx: float = 0.0, cy: float = 0.0) -> Shape:
    """A bar along x with round ends."""
    return lambda x, y: (
        np.hypot(x - np.float32(cx) - np.clip(x - np.float32(cx), -half_length, half_length), y - np.float32(cy))
        - np.float32(radius)
    ).astype(np.float32)


def both(a: Shape, b: Shape) -> Shape:
    """Where both are."""
    return lambda x, y: np.maximum(a(x, y), b(x, y))


def without(a: Shape, b: Shape) -> Shape:
    """The first where the second is not."""
    return lambda x, y: np.maximum(a(x, y), -b(x, y))


def compose(parts: list[Part], x: Field, y: Field, unit: float, noise: Field, gloss: float) -> tuple[Surface, Field]:
    """Put the parts on each other.

    Args:
        parts: from the bottom up.
        x, y: coordinates of the pixels in the thing's own frame, [S, S].
        unit: pixels of one unit, for clean edges.
        noise: grain, [S, S] around 0.
        gloss: of the material.

    Returns:
        The surface, and which part lies on top [S, S] (0: background), by which two versions are compared.
    """
    albedo = np.zeros((*x.shape, 3), dtype=np.float32)
    height, alpha, top = (np.zeros(x.shape, dtype=np.float32) for _ in range(3))
    for number, part in enumerate(parts, start=1):
        distance = part.shape(x, y)
        inside = np.clip(np.float32(0.5) - distance * np.float32(unit), 0, 1)
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        if len(rows) == 0:
            continue
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # the rest stays as it is
        inside = inside[box]
        if part.cut:
            alpha[box] *= 1 - inside
            height[box] *= 1 - inside
            top[box][inside > 0.5] = 0
            continue
        bevel = np.clip(-distance[box] / np.float32(part.bevel), 0, 1)
        rise = np.sqrt(np.maximum(1 - (1 - bevel) ** 2, 0)) * np.float32(part.height)
        height[box] += (rise - height[box]) * inside
        shade = part.colour * (1 + noise[box] * np.float32(part.grain))[..., None]
        albedo[box] += (shade - albedo[box]) * inside[..., None]
        alpha[box] = np.maximum(alpha[box], inside)
        top[box][inside > 0.5] = number
    return Surface(np.clip(albedo, 0, 1), height, alpha, gloss), top


def grain(rng: np.random.Generator, size: int) -> Field:
    """Noise for the surface of a thing: fine, or drawn out along a direction."""
    if rng.random() < 0.4:
        return fractal(rng, size, 0.5, stretch=rng.uniform(3, 20), angle=rng.uniform(0, np.pi))
    return fractal(rng, size, rng.uniform(0.3, 1.4))
