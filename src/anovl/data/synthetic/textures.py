"""Surfaces without a shape of their own: metal, wood, leather, stone, cloth, print.

Each function takes (rng, size) and gives a `Surface`; what it varies is normal for that class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anovl.data.synthetic.fields import Field, fractal, grid, mix, slight, step


@dataclass
class Surface:
    """What light falls on.

    Attributes:
        albedo: [S, S, 3], 0 to 1.
        height: [S, S], in picture widths.
        alpha: [S, S], 1 where the thing is and 0 where the background shows.
        gloss: strength of the highlight, 0 (cloth) to 1 (polished); [S, S] where it differs from place to place.
    """

    albedo: Field
    height: Field
    alpha: Field
    gloss: float | Field


def palette(rng: np.random.Generator, *colours: tuple[float, float, float], spread: float = 0.06) -> Field:
    """One of the colours, a little off, [3]."""
    base = np.asarray(colours[int(rng.integers(len(colours)))], dtype=np.float32)
    shade = np.float32(rng.uniform(0.8, 1.15))
    return np.clip(base * shade + rng.normal(0, spread, 3), 0.02, 0.98).astype(np.float32)


def tint(colour: Field, lightness: Field) -> Field:
    """A colour [3] made lighter and darker by a field [S, S] around 1 -> [S, S, 3]."""
    return np.clip(lightness[..., None] * colour, 0, 1).astype(np.float32)


def _flat(albedo: Field, height: Field | None = None, gloss: float = 0.0) -> Surface:
    ones = np.ones(albedo.shape[:2], dtype=np.float32)
    return Surface(albedo, np.zeros_like(ones) if height is None else height.astype(np.float32), ones, gloss)


def waves(
    rng: np.random.Generator, size: int, cycles: float, angle: float, phase: float = 0.0, bend: Field | float = 0.0
) -> Field:
    """A sine across the picture, -1 to 1; `bend` shifts it, in picture coordinates; anywhere in each picture of a line."""
    phase += slight(rng, 2 * np.pi)
    x, y = grid(size)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.sin((x * c + y * s + bend) * np.float32(np.pi * cycles) + np.float32(phase)).astype(np.float32)


def brushed_metal(rng: np.random.Generator, size: int) -> Surface:
    """Ground or brushed metal: streaks, bands, blotches of light."""
    angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.06) if rng.random() < 0.75 else rng.uniform(0, np.pi)
    colour = palette(rng, (0.5, 0.5, 0.51), (0.35, 0.35, 0.36), (0.62, 0.6, 0.57), (0.55, 0.45, 0.3), spread=0.02)
    fine = fractal(rng, size, rng.uniform(0.2, 0.9), stretch=rng.uniform(8, 40), angle=angle)
    bands = fractal(rng, size, 1.2, stretch=40, angle=angle)
    cloud = fractal(rng, size, 2.0)
    peaks = np.maximum(fine, 0) ** 2 * rng.uniform(0, 0.06)
    light = 1 + fine * rng.uniform(0.03, 0.16) + bands * rng.uniform(0, 0.15) + cloud * rng.uniform(0, 0.15) + peaks
    grain = fractal(rng, size, 0.0) * np.float32(rng.uniform(0, 0.06))
    return _flat(tint(colour, light + grain), fine * np.float32(0.0004), rng.uniform(0.1, 0.5))


def wood(rng: np.random.Generator, size: int) -> Surface:
    """Planed wood: rings along a direction, pores, sometimes planks."""
    angle = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.1)
    dark = palette(rng, (0.4, 0.24, 0.12), (0.5, 0.34, 0.2), (0.3, 0.18, 0.1))
    light = np.clip(dark * np.float32(rng.uniform(1.3, 1.9)), 0, 0.95)
    bend = fractal(rng, size, 2.2, stretch=3, angle=angle) * np.float32(rng.uniform(0.02, 0.1))
    rings = waves(rng, size, rng.uniform(4, 14), angle + np.pi / 2, rng.uniform(0, 6), bend)
    pores = fractal(rng, size, 0.6, stretch=rng.uniform(10, 30), angle=angle)
    amount = np.clip(0.5 + 0.35 * rings + 0.2 * pores * rng.uniform(0.4, 1.2), 0, 1).astype(np.float32)
    albedo = mix(np.broadcast_to(dark, (size, size, 3)), np.broadcast_to(light, (size, size, 3)), amount)
    return _flat(albedo, pores * np.float32(0.0008), rng.uniform(0, 0.2))


def leather(rng: np.random.Generator, size: int) -> Surface:
    """Grained leather: cells between creases."""
    colour = palette(rng, (0.35, 0.2, 0.12), (0.12, 0.11, 0.11), (0.6, 0.45, 0.3), (0.35, 0.1, 0.1), (0.2, 0.25, 0.35))
    cycles = rng.uniform(14, 34)
    cells = fractal(rng, size, 0.3, low=cycles * 0.5, high=cycles * 1.6)
    crease = np.exp(-np.abs(cells) * np.float32(3.0)).astype(np.float32)
    cloud = fractal(rng, size, 2.0)
    albedo = tint(colour, 1.05 - crease * rng.uniform(0.15, 0.5) + cloud * rng.uniform(0.02, 0.1))
    return _flat(albedo, -crease * np.float32(rng.uniform(0.002, 0.006)), rng.uniform(0.05, 0.45))


def tile(rng: np.random.Generator, size: int) -> Surface:
    """Polished stone tile: speckles of two or three minerals."""
    albedo = np.broadcast_to(palette(rng, (0.7, 0.68, 0.65), (0.5, 0.5, 0.5), (0.75, 0.7, 0.6)), (size, size, 3))
    cycles = rng.uniform(18, 60)
    for _ in range(int(rng.integers(2, 4))):
        other = palette(rng, (0.15, 0.15, 0.16), (0.85, 0.84, 0.8), (0.45, 0.35, 0.3), (0.3, 0.33, 0.38))
        speckle = fractal(rng, size, rng.uniform(0.2, 1.0), low=cycles * 0.3, high=cycles * 1.5)
        albedo = mix(albedo, other, step(0, 0.3, speckle - np.float32(rng.uniform(0.4, 1.3))))
    return _flat(albedo, None, rng.uniform(0.1, 0.6))


def carpet(rng: np.random.Generator, size: int) -> Surface:
    """Looped pile: a fine irregular weave."""
    colour = palette(rng, (0.45, 0.44, 0.43), (0.3, 0.3, 0.35), (0.5, 0.42, 0.33), (0.25, 0.35, 0.3), (0.5, 0.25, 0.22))
    cycles, angle = rng.uniform(18, 36), rng.normal(0, 0.1)
    bend = fractal(rng, size, 1.8) * np.float32(0.012)
    loops = waves(rng, size, cycles, angle, 0, bend) * waves(rng, size, cycles * rng.uniform(0.6, 1), angle + np.pi / 2, 0, bend)
    fluff = fractal(rng, size, 0.5, low=8)
    light = 1 + loops * rng.uniform(0.12, 0.35) + fluff * rng.uniform(0.1, 0.22)
    return _flat(tint(colour, light), (loops + fluff) * np.float32(0.0015))


def fabric(rng: np.random.Generator, size: int) -> Surface:
    """Woven cloth: warp and weft, plain, checked or twill."""
    a, b = palette(rng, (0.75, 0.73, 0.68), (0.25, 0.32, 0.5), (0.6, 0.2, 0.2)), palette(rng, (0.8, 0.8, 0.78), (0.2, 0.2, 0.22))
    cycles, angle, lean = rng.uniform(16, 44), rng.normal(0, 0.12), rng.choice([0.0, np.pi / 4])
    bend = fractal(rng, size, 2.0) * np.float32(0.01)
    warp, weft = waves(rng, size, cycles, angle + lean, 0, bend), waves(rng, size, cycles, angle + lean + np.pi / 2, 0, bend)
    over = (warp * weft > 0).astype(np.float32)
    sheen = np.where(over > 0, np.abs(warp), np.abs(weft))
    check = step(-0.2, 0.2, waves(rng, size, rng.uniform(2, 6), angle, 0, bend)) if rng.random() < 0.35 else np.float32(0)
    albedo = mix(np.broadcast_to(a, (size, size, 3)), b, np.clip(over * rng.uniform(0.1, 0.5) + check * 0.5, 0, 1))
    thread = fractal(rng, size, 0.5, low=6)
    albedo = np.clip(albedo * (0.7 + 0.3 * sheen + thread * 0.06)[..., None], 0, 1).astype(np.float32)
    return _flat(albedo, sheen * np.float32(0.002))


def wire_mesh(rng: np.random.Generator, size: int) -> Surface:
    """A grid of wires before a plain ground."""
    cycles, angle = rng.uniform(6, 16), rng.choice([0.0, np.pi / 4]) + rng.normal(0, 0.05)
    wire, ground = (
        palette(rng, (0.65, 0.65, 0.65), (0.7, 0.6, 0.4), (0.3, 0.3, 0.3)),
        palette(rng, (0.15, 0.15, 0.16), (0.85, 0.85, 0.85)),
    )
    bend = fractal(rng, size, 2.2) * np.float32(0.006)
    one, two = (
        waves(rng, size, cycles, angle, 0, bend),
        waves(rng, size, cycles * rng.uniform(0.7, 1), angle + np.pi / 2, 0, bend),
    )
    thin = rng.uniform(0.55, 0.85)
    lines = np.maximum(step(thin, thin + 0.2, one), step(thin, thin + 0.2, two))
    shade = 1 + fractal(rng, size, 0.8) * np.float32(0.06)
    albedo = mix(tint(ground, shade), tint(wire, shade), lines)
    return _flat(albedo, lines * np.float32(0.012), rng.uniform(0.1, 0.5))


def concrete(rng: np.random.Generator, size: int) -> Surface:
    """Cast concrete: clouds, sand, a few pits."""
    colour = palette(rng, (0.55, 0.54, 0.52), (0.65, 0.63, 0.58), (0.42, 0.42, 0.43), spread=0.02)
    cloud, sand = fractal(rng, size, 1.6), fractal(rng, size, 0.3, low=20)
    pits = step(0, 0.4, fractal(rng, size, 0.2, low=12, high=40) - np.float32(rng.uniform(2.4, 3.2)))
    light = 1 + cloud * rng.uniform(0.04, 0.13) + sand * rng.uniform(0.03, 0.1) - pits * 0.35
    return _flat(tint(colour, light), sand * np.float32(0.0008) - pits * np.float32(0.006))


def marble(rng: np.random.Generator, size: int) -> Surface:
    """Veined stone."""
    ground, vein = (
        palette(rng, (0.85, 0.84, 0.82), (0.3, 0.32, 0.3), (0.75, 0.65, 0.55)),
        palette(rng, (0.45, 0.43, 0.42), (0.7, 0.68, 0.6)),
    )
    angle = rng.uniform(0, np.pi)
    cloud = fractal(rng, size, 1.8, stretch=rng.uniform(1.5, 4), angle=angle)
    lines = np.exp(-np.abs(fractal(rng, size, 1.9, stretch=2.5, angle=angle)) * np.float32(rng.uniform(5, 14))).astype(np.float32)
    albedo = mix(tint(ground, 1 + cloud * np.float32(0.06)), vein, lines * np.float32(rng.uniform(0.3, 0.7)))
    return _flat(albedo, None, rng.uniform(0.2, 0.7))


def printed_paper(rng: np.random.Generator, size: int) -> Surface:
    """A repeated print: dots, stripes or lozenges on paper."""
    paper, ink = (
        palette(rng, (0.9, 0.89, 0.86), (0.85, 0.8, 0.65)),
        palette(rng, (0.2, 0.3, 0.6), (0.65, 0.2, 0.25), (0.15, 0.4, 0.3), (0.2, 0.2, 0.2)),
    )
    cycles, angle = rng.uniform(5, 18), rng.choice([0.0, np.pi / 4]) + rng.normal(0, 0.04)
    one, two = waves(rng, size, cycles, angle), waves(rng, size, cycles, angle + np.pi / 2)
    pattern = (one * two, one, np.minimum(one, two), one + two)[int(rng.integers(4))]
    shape = step(-0.15, 0.15, pattern - np.float32(rng.uniform(-0.2, 0.4)))
    albedo = mix(tint(paper, 1 + fractal(rng, size, 0.6) * np.float32(0.02)), ink, shape * np.float32(rng.uniform(0.5, 1)))
    return _flat(albedo, None, rng.uniform(0, 0.15))


def painted_steel(rng: np.random.Generator, size: int) -> Surface:
    """Sprayed sheet metal: one colour, orange peel."""
    colour = palette(
        rng, (0.8, 0.8, 0.8), (0.15, 0.25, 0.5), (0.6, 0.12, 0.1), (0.15, 0.15, 0.16), (0.8, 0.65, 0.15), (0.25, 0.45, 0.3)
    )
    peel = fractal(rng, size, 0.6, low=8, high=60)
    light = 1 + fractal(rng, size, 2.0) * rng.uniform(0, 0.06) + peel * rng.uniform(0, 0.04)
    return _flat(tint(colour, light), peel * np.float32(rng.uniform(0.0003, 0.0016)), rng.uniform(0.2, 0.8))


def rubber_mat(rng: np.random.Generator, size: int) -> Surface:
    """Ribbed or studded rubber."""
    colour = palette(rng, (0.13, 0.13, 0.14), (0.3, 0.3, 0.32), (0.2, 0.25, 0.2), (0.35, 0.15, 0.12), spread=0.02)
    cycles, angle = rng.uniform(5, 13), rng.choice([0.0, np.pi / 4, np.pi / 2]) + rng.normal(0, 0.05)
    one, two = waves(rng, size, cycles, angle), waves(rng, size, cycles, angle + np.pi / 2)
    raised = step(-0.2, 0.3, one if rng.random() < 0.5 else one * two)
    light = 1 + raised * np.float32(0.25) + fractal(rng, size, 0.6) * np.float32(0.08)
    return _flat(tint(colour, light), raised * np.float32(0.012), rng.uniform(0.05, 0.3))


def asphalt(rng: np.random.Generator, size: int) -> Surface:
    """Rough grains, light and dark, as in asphalt, cork or cast iron."""
    colour = palette(rng, (0.3, 0.3, 0.31), (0.6, 0.45, 0.3), (0.2, 0.2, 0.22), (0.5, 0.5, 0.5))
    grains = fractal(rng, size, rng.uniform(0.1, 0.7), low=rng.uniform(8, 20))
    light = 1 + grains * rng.uniform(0.1, 0.28) + fractal(rng, size, 1.8) * rng.uniform(0.0, 0.1)
    return _flat(tint(colour, light), grains * np.float32(rng.uniform(0.0005, 0.003)), rng.uniform(0, 0.2))


TEXTURES: dict[str, Callable[[np.random.Generator, int], Surface]] = {
    "brushed metal": brushed_metal,
    "wood": wood,
    "leather": leather,
    "tile": tile,
    "carpet": carpet,
    "fabric": fabric,
    "grid": wire_mesh,
    "concrete": concrete,
    "printed paper": printed_paper,
    "painted steel": painted_steel,
    "asphalt": asphalt,
    "marble": marble,
    "rubber mat": rubber_mat,
}
HELD_OUT = ("marble", "rubber mat")  # in no training picture and no training sentence
MATERIALS = tuple(make for name, make in TEXTURES.items() if name not in HELD_OUT)  # of what lies on things and behind them
