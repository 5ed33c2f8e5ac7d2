"""One picture: a thing or a surface, perhaps a defect, light, ground and camera."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_closing, gaussian_filter, uniform_filter

from anovl.core.prompts import article
from anovl.data.synthetic.defects import SURFACE_DEFECTS, VISIBLE, Spot, contrast, under
from anovl.data.synthetic.fields import Field, LineGenerator, blob, fractal, grid, mix, slight, white
from anovl.data.synthetic.objects import OBJECTS
from anovl.data.synthetic.shapes import Part, compose, grain
from anovl.data.synthetic.textures import HELD_OUT as HELD_OUT_TEXTURES
from anovl.data.synthetic.textures import MATERIALS, TEXTURES, Surface, palette
from anovl.errors import UsageError, suggest

MIN_SIZE, MAX_SIZE = 96, 1024
SMALLEST, LARGEST = 0.0005, 0.2  # share of the picture that a defect covers
HELD_OUT = ("bearing", "button", *HELD_OUT_TEXTURES)  # in no training picture and no training sentence

_ATTEMPTS = 8
_SHAPE_DEFECTS = ("chip", "bent")
_PART_DEFECTS = ("missing part", "misplaced part")
_WITHOUT_LOOSE_PARTS = ("washer", "metal nut", "bottle", "bean")
_PATTERNED = ("wood", "carpet", "fabric", "grid", "printed paper", "rubber mat")


@dataclass(frozen=True)
class ClassInfo:
    """A class of the drawn world.

    Attributes:
        name: as in prompts.
        kind: "object" or "texture".
        defects: kinds that it can have.
        held_out: nothing was ever trained on it.
    """

    name: str
    kind: str
    defects: tuple[str, ...]
    held_out: bool


@dataclass(frozen=True, eq=False)
class Sample:
    """A drawn picture.

    Attributes:
        image: [S, S, 3] uint8, RGB.
        mask: [S, S] bool, True on the defect.
        class_name: what it shows.
        defect: its kind, or None.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    class_name: str
    defect: str | None

    @property
    def caption(self) -> str:
        """One plain sentence about it."""
        thing = f"{article(self.class_name)} {self.class_name}"
        if self.defect is None:
            return f"a photo of {thing} without defect"
        return f"a photo of {thing} with a {self.defect} defect"


def _classes() -> dict[str, ClassInfo]:
    anywhere = tuple(kind for kind in SURFACE_DEFECTS if kind != "distortion")
    classes = {}
    for name in OBJECTS:
        parts = () if name in _WITHOUT_LOOSE_PARTS else _PART_DEFECTS
        classes[name] = ClassInfo(name, "object", (*anywhere, *_SHAPE_DEFECTS, *parts), name in HELD_OUT)
    for name in TEXTURES:
        pattern = ("distortion",) if name in _PATTERNED else ()
        classes[name] = ClassInfo(name, "texture", (*anywhere, "chip", *pattern), name in HELD_OUT)
    return classes


CLASSES: dict[str, ClassInfo] = _classes()


def draw(
    class_name: str,
    seed: int,
    *,
    size: int = 240,
    defect: str | None = None,
    severity: tuple[float, float] = (0.0, 1.0),
    line: int | None = None,
) -> Sample:
    """Draw one picture; it depends on the arguments alone.

    The same seed with and without a defect gives the same thing in the same light. A defect that would not show is drawn again,
    elsewhere and otherwise (`defects.contrast`).

    Args:
        class_name: one of `CLASSES`.
        seed: any whole number from 0.
        size: pixels of a side, 96 to 1024.
        defect: a kind from the class's defects; None draws a good one.
        severity: range that its plainness and its area are drawn from, 0 (barely visible, 0.05 % of the picture) to
            1 (gross, up to 20 %). Of a chip its size, of a bent outline how deep, of a misplaced part how far; a missing part
            is missing.
        line: a whole number from 0 that design, material, colours, ground, light and camera are drawn from, as on a production
            line; the seed says where the part lies, or which piece of the material it is, and draws slight changes of light,
            grain, noise and the defect. None draws all from the seed.

    Raises:
        UsageError: no such class or defect, or the size, seed, severity or line is out of range.
    """
    if class_name not in CLASSES:
        raise UsageError(suggest("class", class_name, CLASSES))
    info = CLASSES[class_name]
    if defect is not None and defect not in info.defects:
        raise UsageError(suggest(f"defect of {class_name}", defect, info.defects))
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise UsageError(f"size: expected {MIN_SIZE} to {MAX_SIZE} pixels, got {size}")
    if seed < 0:
        raise UsageError(f"seed: expected a whole number from 0, got {seed}")
    if line is not None and line < 0:
        raise UsageError(f"line: expected a whole number from 0, or None, got {line}")
    if not 0 <= severity[0] <= severity[1] <= 1:
        raise UsageError(f"severity: expected (least, most) between 0 and 1, got {severity}")
    good = _draw(info, seed, size, None, severity, line)
    if defect is None:
        return good
    tries: list[tuple[float, Sample]] = []
    for attempt in range(_ATTEMPTS):
        sample = _draw(info, seed, size, defect, severity, line, attempt)
        plain = contrast(good.image, sample.image, sample.mask)
        if plain >= VISIBLE and sample.mask.mean() >= SMALLEST:
            return sample
        tries.append((plain, sample))
    return max(tries, key=lambda one: one[0])[1]


def _draw(
    info: ClassInfo, seed: int, size: int, defect: str | None, severity: tuple[float, float], line: int | None, attempt: int = 0
) -> Sample:
    """One try: a defect can come out smaller than counts, hide behind another part, or not show."""
    key = int.from_bytes(hashlib.sha256(info.name.encode()).digest()[:8])
    body, camera, flaw = (np.random.default_rng([key, seed, stream]) for stream in (0, 1, 2 + attempt))
    if line is not None:
        body, camera = (LineGenerator([key, line, stream], [key, seed, 2 + _ATTEMPTS + stream]) for stream in (0, 1))
    if info.kind == "texture":
        surface = TEXTURES[info.name](body, size)
        if rotate := int(body.integers(4)):
            surface = Surface(np.rot90(surface.albedo, rotate), np.rot90(surface.height, rotate), surface.alpha, surface.gloss)
        mask = np.zeros((size, size), dtype=np.float32)
    else:
        surface, mask = _thing(info.name, body, flaw, size, defect, severity)
    ground = _ground(np.random.Generator(body.bit_generator), size)  # the same in all pictures of a line
    gloss = np.float32(surface.gloss)  # a number, before a defect changes it
    if defect in SURFACE_DEFECTS:
        silhouette = surface.alpha
        mask = SURFACE_DEFECTS[defect](flaw, surface, _spot(flaw, silhouette, severity)) * silhouette
        surface.gloss = gloss + mask * (surface.gloss - gloss)  # the rest shines as before
    elif defect == "chip":
        mask = _chip(flaw, surface, severity)
    shines = gloss > 0 or line is not None
    picture = _photograph(camera, _light(camera, surface, shines=bool(shines)), surface.alpha, ground)
    return Sample(picture, _as_mask(mask, defect), info.name, defect)


def _as_mask(mask: Field, defect: str | None) -> NDArray[np.bool_]:
    """Where a soft mask counts; never empty where there is a defect."""
    if defect is None:
        return np.zeros(mask.shape, dtype=bool)
    return np.asarray(mask > min(0.4, 0.6 * float(mask.max())), dtype=bool)


def _thing(
    name: str,
    body: np.random.Generator,
    flaw: np.random.Generator,
    size: int,
    defect: str | None,
    severity: tuple[float, float],
) -> tuple[Surface, Field]:
    """An object in some pose, with its defect of shape or parts, and where that changed it."""
    parts = OBJECTS[name](body)
    x, y = grid(size)
    scale = body.uniform(0.55, 0.92)
    turn = body.uniform(0, 2 * np.pi) if body.random() < 0.6 else body.normal(0, 0.08)
    slack = max(0.0, 0.95 - scale) * 0.7
    turn += slight(body, 0.04)
    cx, cy = (body.uniform(-slack, slack) + slight(body, 0.02) for _ in range(2))
    squeeze = np.float32(body.uniform(0.94, 1.06))
    c, s = np.float32(np.cos(turn) / scale), np.float32(np.sin(turn) / scale)

    def frame(x: Field, y: Field) -> tuple[Field, Field]:
        """Coordinates of the thing at those of the picture."""
        dx, dy = x - np.float32(cx), y - np.float32(cy)
        return (dx * c + dy * s) * squeeze, (dy * c - dx * s) / squeeze

    u, v = frame(x, y)
    unit, noise, gloss = scale * size / 2, grain(body, size), body.uniform(0, 0.7)
    surface, top = compose(parts, u, v, unit, noise, gloss)
    if defect in _PART_DEFECTS:
        loose = [i for i, part in enumerate(parts) if part.loose]
        for index in flaw.permutation(loose):
            changed = list(parts)
            if defect == "missing part":
                del changed[index]
            else:
                changed[index] = _moved(flaw, parts[index], severity)
            wrong, wrong_top = compose(changed, u, v, unit, noise, gloss)
            if defect == "missing part":  # number the rest as before
                wrong_top = np.where(wrong_top > index, wrong_top + 1, wrong_top)
            mask = (wrong_top != top).astype(np.float32)
            if mask.mean() >= SMALLEST:
                return wrong, mask
        return wrong, mask
    if defect == "bent":
        pushed_x, pushed_y, away = _bend(flaw, surface.alpha, severity)
        wrong, wrong_top = compose(parts, *frame(pushed_x, pushed_y), unit, noise, gloss)
        changed = (wrong_top != top) & (away > 0.1)  # further off it hardly moves
        return wrong, binary_closing(changed, iterations=max(1, size // 100)).astype(np.float32)
    return surface, np.zeros((size, size), dtype=np.float32)


def _between(severity: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """The range of a quantity that goes from least to most with the severity."""
    low, high = (least + (most - least) * value for value in severity)
    return low, high


def _moved(rng: np.random.Generator, part: Part, severity: tuple[float, float]) -> Part:
    """The part at another place and turned."""
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(*_between(severity, 0.08, 0.3))
    turn = rng.uniform(-0.8, 0.8)
    (cx, cy), c, s = part.centre, np.float32(np.cos(turn)), np.float32(np.sin(turn))
    tx, ty = np.float32(cx + away * np.cos(angle)), np.float32(cy + away * np.sin(angle))

    def shape(x: Field, y: Field) -> Field:
        dx, dy = x - tx, y - ty
        return part.shape(dx * c + dy * s + np.float32(cx), dy * c - dx * s + np.float32(cy))

    return Part(shape, part.colour, part.height, part.bevel, part.grain, cut=part.cut)


def _edge_point(rng: np.random.Generator, alpha: Field) -> tuple[float, float]:
    """A point on the outline, or on the picture's border where the surface fills it."""
    size = alpha.shape[0]
    solid = alpha > 0.5
    border = solid ^ (uniform_filter(solid.astype(np.float32), 3) > 0.99)
    border &= solid
    if not border.any():
        along, side = rng.uniform(-0.95, 0.95), rng.choice([-0.97, 0.97])
        return (float(along), float(side)) if rng.random() < 0.5 else (float(side), float(along))
    rows, columns = np.nonzero(border)
    i = int(rng.integers(len(rows)))
    return ((columns[i] + 0.5) * 2 / size - 1, (rows[i] + 0.5) * 2 / size - 1)


def _bend(rng: np.random.Generator, alpha: Field, severity: tuple[float, float]) -> tuple[Field, Field, Field]:
    """Coordinates (x, y) of the picture, pushed in or out around a point of the outline, and by what share of the most."""
    size = alpha.shape[0]
    x, y = grid(size)
    cx, cy = _edge_point(rng, alpha)
    wide = rng.uniform(0.12, 0.35)
    away = np.clip(1 - ((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2) / np.float32(4.75 * wide * wide), 0, 1) ** 2
    down, right = (float((gaussian_filter(alpha, 0.02 * size, order=order) * away).sum()) for order in ((1, 0), (0, 1)))
    far = wide * rng.uniform(*_between(severity, 0.25, 0.55)) * rng.choice([-1, 1]) / max(float(np.hypot(down, right)), 1e-6)
    return x + away * np.float32(far * right), y + away * np.float32(far * down), away


def _spot(rng: np.random.Generator, alpha: Field, severity: tuple[float, float]) -> Spot:
    """A place on the thing, an area and a strength."""
    size = alpha.shape[0]
    rows, columns = np.nonzero(alpha > 0.9)
    if len(rows) == 0:
        rows, columns = np.nonzero(alpha >= alpha.max())
    i = int(rng.integers(len(rows)))
    centre = ((columns[i] + 0.5) * 2 / size - 1, (rows[i] + 0.5) * 2 / size - 1)
    area = SMALLEST * (LARGEST / SMALLEST) ** rng.uniform(*severity) * max(float(alpha.mean()), 0.15)
    return Spot(centre, float(np.sqrt(4 * area / np.pi)), float(rng.uniform(*severity)))


def _chip(rng: np.random.Generator, surface: Surface, severity: tuple[float, float]) -> Field:
    """A bite out of the edge: gone, or broken to the raw material. On a surface: a torn border."""
    size = surface.alpha.shape[0]
    centre, radius = _edge_point(rng, surface.alpha), float(np.exp(rng.uniform(*_between(severity, np.log(0.06), np.log(0.4)))))
    bite = blob(rng, size, centre, radius, ragged=rng.uniform(0.2, 0.8))
    mask = bite * surface.alpha
    if rng.random() < 0.5 or not (surface.alpha < 0.5).any():
        own = under(surface, surface.albedo, np.ones_like(surface.alpha))
        raw = np.clip(own * np.float32(rng.choice([0.45, 0.6, 1.5])) + 0.03, 0, 1).astype(np.float32)
        rough = fractal(rng, size, 1.2, low=4)
        surface.albedo = mix(
            surface.albedo, np.clip(raw * (1 + rough * np.float32(0.2))[..., None], 0, 1).astype(np.float32), bite
        )
        surface.height = surface.height - bite * (np.float32(0.02) + rough * np.float32(0.004))
    else:
        surface.alpha = surface.alpha * (1 - bite)
    return mask.astype(np.float32)


def _ground(rng: np.random.Generator, size: int) -> Field:
    """What lies behind, [S, S, 3]: plain, shaded, or a quiet texture."""
    colour = palette(
        rng,
        (0.08, 0.08, 0.09),
        (0.9, 0.9, 0.9),
        (0.5, 0.5, 0.5),
        (0.25, 0.3, 0.35),
        (0.8, 0.75, 0.3),
        (0.3, 0.5, 0.35),
        spread=0.08,
    )
    kind = rng.random()
    if kind < 0.35:
        return np.broadcast_to(colour, (size, size, 3))
    if kind < 0.8:
        light = 1 + fractal(rng, size, rng.uniform(0.8, 2.0)) * np.float32(rng.uniform(0.01, 0.12))
        return np.clip(light[..., None] * colour, 0, 1).astype(np.float32)
    texture = MATERIALS[int(rng.integers(len(MATERIALS)))](rng, size).albedo
    return mix(np.broadcast_to(colour, texture.shape), texture, np.full((size, size), rng.uniform(0.2, 0.8), dtype=np.float32))


def _light(rng: np.random.Generator, surface: Surface, *, shines: bool) -> Field:
    """The lit surface, [S, S, 3]: ambient, one lamp, a highlight, an uneven field.

    Args:
        shines: draw how strong the highlight is. On a matt thing, where only a defect shines, it is drawn no more than
            without the defect, so that all that is drawn after it stays the same.
    """
    size = surface.alpha.shape[0]
    dy, dx = np.gradient(surface.height * np.float32(size / 2))
    side, tilt = rng.uniform(0, 2 * np.pi) + slight(rng, 0.05), rng.uniform(0.35, 1.0)
    lx, ly, lz = (np.float32(value) for value in (np.cos(side) * tilt, np.sin(side) * tilt, 1.0))
    norm = 1 / np.sqrt(1 + dx * dx + dy * dy)
    facing = (lz - dx * lx - dy * ly) * norm / np.float32(np.hypot(1, tilt))
    ambient = rng.uniform(0.35, 0.65)
    flat = 1 / np.hypot(1, tilt)  # what a level surface gets
    shade = ambient + (1 - ambient) * np.maximum(facing, 0) / np.float32(flat)
    x, y = grid(size)
    fall_x, fall_y = (rng.normal(0, 0.1) + slight(rng, 0.01) for _ in range(2))
    field = 1 + (x * np.float32(fall_x) + y * np.float32(fall_y))
    lit = surface.albedo * (shade * field)[..., None]
    highlight = rng.uniform(0.3, 0.9) if shines else 0.6
    if np.any(surface.gloss):
        half = norm * (1 - dx * lx / 2 - dy * ly / 2) / np.float32(np.hypot(1, tilt / 2))
        shine = np.clip(half, 0, 1)
        shine = shine * shine
        shine = shine * shine
        shine = shine * shine * shine * shine  # the 16th power
        level = np.float32(1 / np.hypot(1, tilt / 2)) ** 16
        lit = lit + ((shine - level) * np.asarray(surface.gloss * highlight, dtype=np.float32))[..., None]
    return np.clip(lit, 0, 1.2).astype(np.float32)


def _photograph(rng: np.random.Generator, lit: Field, alpha: Field, ground: Field) -> NDArray[np.uint8]:
    """Thing before ground through a camera: shadow, exposure, colour cast, vignette, blur, noise, perhaps grey."""
    size = alpha.shape[0]
    if float(alpha.min()) < 1:
        deep, soft = rng.uniform(0, 0.5), rng.uniform(0.02, 0.12)
        shift = tuple(int(value) for value in rng.normal(0, 0.03, 2) * size)
        shade = uniform_filter(
            uniform_filter(np.roll(alpha, shift, axis=(0, 1)), max(3, int(soft * size))), max(3, int(soft * size))
        )
        picture = mix(ground * (1 - np.float32(deep) * shade)[..., None], lit, alpha)
    else:
        picture = lit
    gain, cast = rng.uniform(0.6, 1.25) + slight(rng, 0.02), rng.normal(1, 0.04, 3)
    x, y = grid(size)
    vignette = 1 - (x * x + y * y) * np.float32(rng.uniform(0, 0.2))
    picture = picture * (vignette[..., None] * (gain * cast).astype(np.float32))
    if rng.random() < 0.2:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    blur = rng.uniform(0, 0.003) * size
    if blur > 0.3:
        picture = gaussian_filter(picture, (blur, blur, 0), truncate=2.5)
    noise = white(rng, size, size, 1) * np.float32(rng.uniform(0, 0.025))
    return np.clip((picture + noise) * 255 + np.float32(0.5), 0, 255).astype(np.uint8)
