"""Ways a surface can be wrong: each changes a `Surface` and says where, from barely visible to gross.

A function takes (rng, surface, spot) and gives its mask, [S, S] from 0 to 1 before it is cut to the thing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates

from anovl.data.synthetic.fields import Field, blob, fractal, grid, mix, step, stroke
from anovl.data.synthetic.textures import MATERIALS, Surface


@dataclass(frozen=True)
class Spot:
    """Where a defect goes and how large and how plain it is.

    Attributes:
        centre: (x, y) on the thing, -1 to 1.
        radius: of a round spot of the wanted area; a picture is 2 wide.
        strength: 0 barely visible to 1 gross.
    """

    centre: tuple[float, float]
    radius: float
    strength: float


Defect = Callable[[np.random.Generator, Surface, Spot], Field]
VISIBLE = 1.5  # contrast from which one who knows the good thing sees a defect


def contrast(good: NDArray[np.uint8], bad: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """How plainly a defect shows: its greatest change of the picture over what varies near it anyway.

    Both are taken of the picture at about 240 pixels, smoothed a little and smoothed more, so that a faint but wide change counts
    too. What varies is what the next coarser scale lacks (root of the mean square), and four grey levels more.

    Args:
        good, bad: the same thing without and with the defect, [S, S, 3].
        mask: of the defect, [S, S].

    Returns:
        0 if nothing changes; below `VISIBLE` it is found only by one who compares the two.
    """
    if not mask.any():
        return 0.0
    smaller = max(1, mask.shape[0] // 240)
    before, after, where = (
        np.asarray(picture.reduce(smaller), dtype=np.float32)
        for picture in (Image.fromarray(good), Image.fromarray(bad), Image.fromarray(mask).convert("L"))
    )
    unit = where.shape[0] / 240
    near = binary_dilation(where > 0, iterations=max(1, round(6 * unit)))
    reach = int(32 * unit)
    rows, columns = (np.flatnonzero(near.any(axis=axis)) for axis in (1, 0))
    window = np.s_[max(rows[0] - reach, 0) : rows[-1] + reach, max(columns[0] - reach, 0) : columns[-1] + reach]
    before, change, near = before[window], (after - before)[window], near[window]
    scales = [(by, by, 0.0) for by in (unit, 4 * unit, 16 * unit)]
    smooth = [gaussian_filter(before, scale, truncate=2.5) for scale in scales]
    plain = 0.0
    for scale, (fine, coarse) in zip(scales, pairwise(smooth), strict=False):
        changed = gaussian_filter(change, scale, truncate=2.5)
        varies = float(np.sqrt(np.square(fine - coarse)[near].mean()))
        plain = max(plain, float(np.sqrt(np.square(changed).mean(axis=2))[near].max()) / (varies + 4))
    return plain


def _spread(surface: Surface) -> float:
    """How much the surface varies by itself, which a defect has to stand out from."""
    inside = surface.alpha > 0.9
    return float(surface.albedo.mean(axis=2)[inside].std()) if inside.any() else 0.0


def under(surface: Surface, values: Field, mask: Field) -> Field:
    """Mean of values [S, S, 3] over what the mask covers of the thing, [3]."""
    weight = mask * surface.alpha
    mean: Field = (values * weight[..., None]).sum(axis=(0, 1)) / max(float(weight.sum()), 1e-3)
    return mean


def _shade(rng: np.random.Generator, surface: Surface, spot: Spot, mask: Field, *, darker: float = 0.5) -> Field:
    """A colour that stands out from what the mask covers, [3]: darker or lighter, of the same hue or another."""
    own = under(surface, surface.albedo, mask)
    contrast = 0.1 + 0.5 * spot.strength + min(0.7 * _spread(surface), 0.25)
    down = rng.random() < darker
    if down and own.mean() < 0.5 * contrast:
        down = False
    elif not down and own.mean() > 1 - 0.5 * contrast:
        down = True
    colour = own - contrast if down else own + contrast
    return np.clip(colour + rng.normal(0, 0.02, 3), 0.01, 0.99).astype(np.float32)


def _hue(rng: np.random.Generator) -> Field:
    """A saturated colour, [3]."""
    phase = rng.uniform(0, 2 * np.pi) + np.array([0, 2, 4]) * np.pi / 3
    return np.clip(0.45 + rng.uniform(0.25, 0.45) * np.cos(phase) + rng.uniform(-0.2, 0.2), 0.02, 0.98).astype(np.float32)


def _paint(surface: Surface, mask: Field, colour: Field, opacity: float = 1.0) -> None:
    surface.albedo = mix(surface.albedo, np.broadcast_to(colour, surface.albedo.shape), mask * np.float32(opacity))


def _line(
    rng: np.random.Generator, surface: Surface, spot: Spot, *, width: tuple[float, float], wander: float, branches: int = 0
) -> Field:
    """A line through the spot."""
    length = float(np.clip(spot.radius * rng.uniform(2.5, 6), 0.12, 1.7))
    angle = rng.uniform(0, 2 * np.pi)
    thick = rng.uniform(*width) * (0.6 + 0.8 * spot.strength)
    size = surface.alpha.shape[0]
    return stroke(rng, size, spot.centre, length, thick, angle=angle, wander=wander, branches=branches)


def scratch(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """One to four nearly straight lines, shiny or dark."""
    mask = np.zeros_like(surface.alpha)
    for _ in range(int(rng.integers(1, 5))):
        at = (spot.centre[0] + rng.normal(0, 0.06), spot.centre[1] + rng.normal(0, 0.06))
        near = Spot(at, spot.radius, spot.strength)
        mask = np.maximum(mask, _line(rng, surface, near, width=(0.008, 0.022), wander=rng.uniform(0.0, 0.08)))
    _paint(surface, mask, _shade(rng, surface, spot, mask, darker=0.35))
    surface.height = surface.height - mask * np.float32(0.004)
    return mask


def crack(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """A dark jagged line that forks."""
    mask = _line(rng, surface, spot, width=(0.008, 0.03), wander=rng.uniform(0.25, 0.6), branches=int(rng.integers(0, 4)))
    _paint(surface, mask, _shade(rng, surface, spot, mask, darker=0.95))
    surface.height = surface.height - mask * np.float32(0.008)
    return mask


def hole(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """Pits and blowholes: dark inside, one or a few."""
    mask = np.zeros_like(surface.alpha)
    for i in range(int(rng.integers(1, 4))):
        at = spot.centre if i == 0 else tuple(np.asarray(spot.centre) + rng.normal(0, 0.12, 2))
        radius = float(np.clip(spot.radius * rng.uniform(0.3, 0.7), 0.022, 0.25))
        mask = np.maximum(mask, blob(rng, mask.shape[0], (float(at[0]), float(at[1])), radius, ragged=rng.uniform(0, 0.6)))
    _paint(surface, mask, _shade(rng, surface, spot, mask, darker=0.93))
    surface.height = surface.height - mask * np.float32(0.012)
    return mask


def stain(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """Something liquid ran over it: a translucent or opaque spot of another colour, with splashes."""
    size = surface.alpha.shape[0]
    mask = blob(rng, size, spot.centre, max(spot.radius * 0.8, 0.03), ragged=rng.uniform(0.4, 1.6))
    for _ in range(int(rng.integers(0, 5))):
        at = (spot.centre[0] + rng.normal(0, spot.radius), spot.centre[1] + rng.normal(0, spot.radius))
        mask = np.maximum(mask, blob(rng, size, at, max(spot.radius * rng.uniform(0.1, 0.4), 0.02)))
    colour = _hue(rng) if rng.random() < 0.5 else _shade(rng, surface, spot, mask, darker=0.75)
    rim = mask * np.float32(1 - rng.uniform(0, 0.5)) if rng.random() < 0.3 else mask
    _paint(surface, rim, colour, 0.35 + 0.6 * spot.strength)
    if rng.random() < 0.4:
        surface.height = surface.height + mask * np.float32(0.006)
    return mask


def dent(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """Pressed in, or a blister pushed out: seen by its shading."""
    x, y = grid(surface.alpha.shape[0])
    radius = max(spot.radius * rng.uniform(0.7, 1.1), 0.05)
    turn, squeeze = rng.uniform(0, np.pi), rng.uniform(0.5, 1)
    dx, dy = x - np.float32(spot.centre[0]), y - np.float32(spot.centre[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    away = np.hypot(dx * c + dy * s, (dy * c - dx * s) / np.float32(squeeze)) / np.float32(radius)
    dip = np.clip(1 - away * away, 0, 1) ** 2
    deep = radius * (0.12 + 0.4 * spot.strength) * rng.choice([-1, 1], p=[0.7, 0.3])
    surface.height = (surface.height + dip * np.float32(deep)).astype(np.float32)
    surface.gloss = np.maximum(surface.gloss, 0.25)
    tone = 1 + dip * np.float32(rng.uniform(-0.3, 0.1) * (0.3 + spot.strength))
    surface.albedo = np.clip(surface.albedo * tone[..., None], 0, 1).astype(np.float32)
    return step(0.97, 0.9, away.astype(np.float32))


def contamination(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """Foreign matter lies on it: a lump or crumbs of another material."""
    size = surface.alpha.shape[0]
    mask = np.zeros_like(surface.alpha)
    if rng.random() < 0.5:
        mask = blob(rng, size, spot.centre, max(spot.radius * 0.8, 0.03), ragged=rng.uniform(0.2, 0.9))
    else:
        for _ in range(int(rng.integers(3, 9))):
            at = (spot.centre[0] + rng.normal(0, spot.radius), spot.centre[1] + rng.normal(0, spot.radius))
            mask = np.maximum(mask, blob(rng, size, at, max(spot.radius * rng.uniform(0.12, 0.4), 0.02)))
    foreign = MATERIALS[int(rng.integers(len(MATERIALS)))]
    if rng.random() < 0.4:
        other = foreign(rng, size)
        surface.albedo = mix(surface.albedo, other.albedo, mask * np.float32(0.5 + 0.5 * spot.strength))
    else:
        _paint(surface, mask, _hue(rng) if rng.random() < 0.4 else _shade(rng, surface, spot, mask))
    bumps = fractal(rng, size, 1.0, low=10)
    surface.height = surface.height + mask * (np.float32(0.012) + bumps * np.float32(0.003))
    return mask


def discoloration(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """A region of another hue or lightness with a soft edge, the structure kept."""
    mask = blob(rng, surface.alpha.shape[0], spot.centre, max(spot.radius, 0.08), ragged=rng.uniform(0.2, 0.8))
    soft = gaussian_filter(mask, rng.uniform(0.005, 0.015) * mask.shape[0])
    by = 0.25 + 0.55 * spot.strength
    factor = 1 + (by if rng.random() < 0.4 else -by) * (np.ones(3) if rng.random() < 0.5 else rng.uniform(-0.4, 1, 3))
    changed = np.clip(surface.albedo * factor.astype(np.float32), 0, 1)
    if under(surface, np.abs(changed - surface.albedo), soft).mean() < 0.04:  # nearly black or white already
        lighter = under(surface, surface.albedo, soft).mean() < 0.5
        changed = np.clip(surface.albedo + np.float32(by * 0.4 * (1 if lighter else -1)), 0, 1)
    surface.albedo = mix(surface.albedo, changed, soft)
    return soft


def cut(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """A slit that gapes: wide in the middle, dark, with a bright lip."""
    size = surface.alpha.shape[0]
    x, y = grid(size)
    turn, length = rng.uniform(0, np.pi), float(np.clip(spot.radius * rng.uniform(1, 2.2), 0.08, 0.9))
    dx, dy = x - np.float32(spot.centre[0]), y - np.float32(spot.centre[1])
    c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along = (dx * c + dy * s) / np.float32(length)
    across = dy * c - dx * s + fractal(rng, size, 2.0) * np.float32(0.01)
    gape = np.float32(length * rng.uniform(0.04, 0.14)) * np.sqrt(np.maximum(1 - along * along, 0)) - np.abs(across)
    width = max(1.5 / size, 0.006)
    mask, lip = step(-width, width, gape), step(-4 * width, 0, gape)
    _paint(surface, lip, _shade(rng, surface, spot, lip, darker=0.1), 0.3 + 0.4 * spot.strength)
    _paint(surface, mask, _shade(rng, surface, spot, mask, darker=0.9))
    surface.height = surface.height - mask * np.float32(0.012)
    return lip


def abrasion(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """Worn or rough: many fine parallel marks, or the finish rubbed off."""
    size = surface.alpha.shape[0]
    mask = blob(rng, size, spot.centre, max(spot.radius, 0.08), ragged=rng.uniform(0.4, 1.0))
    marks = fractal(rng, size, 0.4, stretch=rng.uniform(3, 20), angle=rng.uniform(0, np.pi))
    amount = np.float32(0.12 + 0.35 * spot.strength + min(_spread(surface), 0.15))
    rough = surface.albedo * np.float32(rng.uniform(0.75, 1.2)) + (marks * amount * np.float32(0.7))[..., None]
    surface.albedo = mix(surface.albedo, np.clip(rough, 0, 1).astype(np.float32), mask)
    surface.height = surface.height + mask * marks * np.float32(0.002)
    return mask


def burn(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """Scorched or rusted: dark heart, brown fringe."""
    size = surface.alpha.shape[0]
    mask = blob(rng, size, spot.centre, max(spot.radius, 0.05), ragged=rng.uniform(0.3, 1.0))
    heart = mask * step(-0.6, 1.0, fractal(rng, size, 1.4, low=3))
    fringe = np.array((0.45, 0.25, 0.1), dtype=np.float32) * np.float32(rng.uniform(0.5, 1.3))
    _paint(surface, mask, fringe, 0.3 + 0.5 * spot.strength)
    _paint(surface, heart.astype(np.float32), np.array((0.08, 0.06, 0.05), dtype=np.float32), 0.25 + 0.6 * spot.strength)
    surface.gloss *= 0.5
    return mask


def thread(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """A fibre or hair on it: long, curled, lit from above."""
    long = Spot(spot.centre, spot.radius * 1.4, spot.strength)
    mask = _line(rng, surface, long, width=(0.01, 0.03), wander=rng.uniform(0.15, 0.35))
    _paint(surface, mask, _hue(rng) if rng.random() < 0.3 else _shade(rng, surface, spot, mask, darker=0.4))
    surface.height = surface.height + mask * np.float32(0.01)
    return mask


def distortion(rng: np.random.Generator, surface: Surface, spot: Spot) -> Field:
    """The pattern is pulled or twisted out of line."""
    size = surface.alpha.shape[0]
    x, y = grid(size)
    radius = max(spot.radius * 1.3, 0.12)
    dx, dy = x - np.float32(spot.centre[0]), y - np.float32(spot.centre[1])
    fade = np.clip(1 - (dx * dx + dy * dy) / np.float32(radius * radius), 0, 1) ** 2
    if rng.random() < 0.5:
        turn = fade * np.float32((0.5 + 1.2 * spot.strength) * rng.choice([-1, 1]))
        shift_x, shift_y = dx * (np.cos(turn) - 1) - dy * np.sin(turn), dy * (np.cos(turn) - 1) + dx * np.sin(turn)
    else:
        push, angle = radius * (0.25 + 0.3 * spot.strength), rng.uniform(0, 2 * np.pi)
        shift_x, shift_y = fade * np.float32(push * np.cos(angle)), fade * np.float32(push * np.sin(angle))
    rows = (y + shift_y + 1) * np.float32(size / 2) - np.float32(0.5)
    columns = (x + shift_x + 1) * np.float32(size / 2) - np.float32(0.5)
    where = np.stack([rows, columns])
    channels = [map_coordinates(surface.albedo[..., i], where, order=1, mode="reflect") for i in range(3)]
    surface.albedo = np.stack(channels, axis=-1).astype(np.float32)
    surface.height = map_coordinates(surface.height, where, order=1, mode="reflect").astype(np.float32)
    return step(0.15, 0.3, np.hypot(shift_x, shift_y) / np.float32(0.1 * radius)).astype(np.float32)


SURFACE_DEFECTS: dict[str, Defect] = {
    "scratch": scratch,
    "crack": crack,
    "hole": hole,
    "stain": stain,
    "dent": dent,
    "contamination": contamination,
    "discoloration": discoloration,
    "cut": cut,
    "abrasion": abrasion,
    "burn": burn,
    "thread": thread,
    "distortion": distortion,
}
