"""Things with a shape: each builder takes a generator and gives a thing's parts from the bottom up.

What it varies is normal for that class. Without a loose part it is no more like any good one: a hole is never just the last of
a row that may be shorter, and what may stand in many places has its footprint there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from anovl.data.synthetic.fields import Field
from anovl.data.synthetic.shapes import Part, Shape, both, box, capsule, circle, polygon, ring, wavy, without
from anovl.data.synthetic.textures import palette

STEEL = ((0.62, 0.62, 0.63), (0.48, 0.48, 0.5), (0.7, 0.67, 0.6), (0.35, 0.35, 0.37))
BRASS = ((0.72, 0.56, 0.28), (0.7, 0.42, 0.28))
PLASTIC = ((0.15, 0.15, 0.16), (0.85, 0.85, 0.84), (0.7, 0.15, 0.15), (0.15, 0.3, 0.65), (0.2, 0.5, 0.3), (0.85, 0.65, 0.15))


def washer(rng: np.random.Generator) -> list[Part]:
    """A flat ring."""
    outer = 0.9
    return [Part(ring(outer, outer * rng.uniform(0.35, 0.6)), palette(rng, *STEEL, *BRASS), 0.02, rng.uniform(0.04, 0.12))]


def metal_nut(rng: np.random.Generator) -> list[Part]:
    """A hexagon nut from above."""
    colour = palette(rng, *STEEL, *BRASS)
    hole = rng.uniform(0.38, 0.48)
    thread = Part(ring(hole + 0.1, hole), colour * np.float32(0.7), 0.01, 0.08)
    return [
        Part(without(polygon(6, 0.8), circle(hole)), colour, 0.05, rng.uniform(0.05, 0.15)),
        Part(ring(0.78, 0.74), colour * np.float32(0.85), 0.045, 0.03),
        thread,
    ]


def gear(rng: np.random.Generator) -> list[Part]:
    """A cog wheel, some with a keyway, holes or spokes."""
    colour, teeth = palette(rng, *STEEL, *BRASS, (0.85, 0.85, 0.84)), int(rng.integers(10, 26))
    parts = [
        Part(wavy(0.82, 0.07, teeth, square=rng.uniform(2, 5)), colour, 0.04, 0.05),
        Part(ring(0.66, 0.36), colour * np.float32(0.88), 0.025, 0.05),
    ]
    count = int(rng.integers(3, 7))
    for i in range(count):
        a = 2 * np.pi * i / count
        at = (0.51 * np.cos(a), 0.51 * np.sin(a))
        parts.append(Part(circle(0.09, *at), colour, loose=True, centre=at, cut=True))
    return [*parts, Part(circle(rng.uniform(0.14, 0.22)), colour, cut=True)]


def screw(rng: np.random.Generator) -> list[Part]:
    """A screw from the side: head, shaft, thread, tip."""
    colour, radius = palette(rng, *STEEL, *BRASS), rng.uniform(0.13, 0.18)
    pitch, lean = rng.uniform(0.08, 0.12), rng.uniform(0.1, 0.3)

    def threaded(x: Field, y: Field) -> Field:
        wave = np.abs(((x + y * np.float32(lean)) / np.float32(pitch)) % 1 - np.float32(0.5)) * np.float32(0.12)
        taper = np.clip((x - np.float32(0.7)) / np.float32(0.25), 0, 1) * np.float32(radius)
        side = np.abs(y) - np.float32(radius) + wave + taper
        return np.maximum(np.maximum(side, -np.float32(0.55) - x), x - np.float32(0.95)).astype(np.float32)

    def grooves(x: Field, y: Field) -> Field:
        phase = ((x + y * np.float32(lean)) / np.float32(pitch)) % 1
        line = (np.abs(phase - np.float32(0.5)) - np.float32(0.22)) * np.float32(pitch)
        return np.maximum(threaded(x, y), line).astype(np.float32)

    head = box(0.14, rng.uniform(0.3, 0.42), -0.75, corner=rng.uniform(0.02, 0.12))
    return [
        Part(box(0.3, radius, -0.4), colour, 0.05, radius),
        Part(threaded, colour, 0.05, radius),
        Part(grooves, colour * np.float32(0.7), 0.03, 0.03),
        Part(head, colour * np.float32(1.05), 0.07, 0.1, loose=True, centre=(-0.75, 0.0)),
    ]


def pill(rng: np.random.Generator) -> list[Part]:
    """A tablet, round or long, with a score line or a stamp."""
    colour = palette(
        rng, (0.92, 0.91, 0.88), (0.9, 0.75, 0.3), (0.85, 0.5, 0.5), (0.5, 0.65, 0.85), (0.6, 0.75, 0.5), spread=0.03
    )
    body = circle(0.8) if rng.random() < 0.5 else capsule(0.4, 0.45)
    parts = [Part(body, colour, 0.06, rng.uniform(0.15, 0.4), 0.03)]
    if rng.random() < 0.5:
        at = (0.3, 0.0)
        return [*parts, Part(ring(0.14, 0.09, *at), colour * np.float32(0.75), 0.05, 0.02, 0.03, loose=True, centre=at)]
    return [*parts, Part(both(body, box(0.03, 0.6)), colour * np.float32(0.8), 0.03, 0.03, 0.03, loose=True)]


def two_part_capsule(rng: np.random.Generator) -> list[Part]:
    """A capsule of two halves."""
    colours = ((0.85, 0.2, 0.15), (0.95, 0.93, 0.88), (0.2, 0.35, 0.7), (0.9, 0.7, 0.2), (0.2, 0.5, 0.3), (0.25, 0.2, 0.18))
    one, two = palette(rng, *colours, spread=0.03), palette(rng, *colours, spread=0.03)
    radius = rng.uniform(0.28, 0.36)
    left = both(capsule(0.58, radius), lambda x, _: x - np.float32(0.05))
    right = both(capsule(0.56, radius * 0.95), lambda x, _: np.float32(0.05) - x)
    at, ink = (-0.35, 0.0), one * np.float32(0.5) if one.mean() > 0.4 else one * np.float32(0.4) + np.float32(0.55)
    return [
        Part(right, two, 0.06, radius, 0.02),
        Part(left, one, 0.065, radius, 0.02),
        Part(box(0.1, 0.05, *at), ink, 0.066, radius, 0.02, loose=True, centre=at),
    ]


def bottle(rng: np.random.Generator) -> list[Part]:
    """The mouth of a bottle from above: rings of glass, dark inside."""
    glass = palette(rng, (0.35, 0.22, 0.1), (0.2, 0.35, 0.22), (0.6, 0.68, 0.7), (0.3, 0.3, 0.3))
    inner = rng.uniform(0.4, 0.5)
    return [
        Part(circle(0.92), glass * np.float32(0.6), 0.03, 0.15, 0.02),
        Part(ring(0.75, 0.55), glass * np.float32(1.4), 0.06, 0.1, 0.03),
        Part(ring(0.58, inner), glass * np.float32(0.9), 0.05, 0.05, 0.02),
        Part(circle(inner), glass * np.float32(rng.uniform(0.1, 0.35)), 0.0, 0.02, 0.02),
    ]


def bottle_cap(rng: np.random.Generator) -> list[Part]:
    """A crown cap or a screw cap from above, with a print."""
    colour, ink = palette(rng, *PLASTIC, *BRASS), palette(rng, (0.9, 0.9, 0.88), (0.12, 0.12, 0.13), (0.8, 0.6, 0.2))
    teeth = int(rng.integers(18, 42))
    parts = [
        Part(wavy(0.86, rng.uniform(0.02, 0.05), teeth), colour, 0.04, 0.1, 0.02),
        Part(circle(0.68), colour * np.float32(1.08), 0.05, 0.06, 0.02),
    ]
    mark = (polygon(3, 0.2), ring(0.42, 0.32), box(0.4, 0.09), polygon(5, 0.25))[int(rng.integers(4))]
    return [*parts, Part(mark, ink, 0.05, 0.02, 0.02, loose=True)]


def bean(rng: np.random.Generator) -> list[Part]:
    """A bean, kernel or seed: an uneven round body with a seam and streaks."""
    colour = palette(rng, (0.6, 0.4, 0.22), (0.8, 0.66, 0.45), (0.35, 0.2, 0.12), (0.7, 0.62, 0.5), (0.45, 0.5, 0.3))
    a, b, c, phase = rng.uniform(0.62, 0.8), rng.uniform(0.5, 0.72), rng.uniform(0, 0.14), rng.uniform(0, 6)

    def body(x: Field, y: Field) -> Field:
        lump = np.cos(np.arctan2(y, x) * np.float32(int(2 + phase) % 3 + 1) + np.float32(phase)) * np.float32(c)
        return (np.hypot(x / np.float32(a), y / np.float32(b)) - 1 - lump).astype(np.float32) * np.float32(min(a, b))

    streaks = [
        Part(both(body, box(0.7, rng.uniform(0.006, 0.016), 0, at)), colour * np.float32(rng.uniform(0.8, 0.93)), 0.09, 0.5, 0.1)
        for at in rng.uniform(-0.4, 0.4, int(rng.integers(0, 5)))
    ]
    parts = [Part(body, colour, 0.12, min(a, b), 0.1), *streaks]
    if rng.random() < 0.5:
        end = both(body, circle(0.28, a * 0.95))
        parts.append(Part(end, colour * np.float32(rng.uniform(0.75, 1.25)), 0.09, 0.3, 0.12))
    return parts


def circuit_board(rng: np.random.Generator) -> list[Part]:
    """A board with traces, pads, chips and small parts on a fixed pattern."""
    board = palette(rng, (0.1, 0.35, 0.2), (0.12, 0.2, 0.4), (0.1, 0.1, 0.11), (0.4, 0.15, 0.12), spread=0.03)
    gold, black = palette(rng, *BRASS), palette(rng, (0.1, 0.1, 0.1), spread=0.02)
    parts = [Part(box(0.9, 0.8), board, 0.015, 0.02, 0.04)]
    lines = rng.uniform(-0.7, 0.7, (int(rng.integers(4, 9)), 3))
    for cx, cy, half in lines:
        trace = box(0.1 + abs(half) * 0.5, 0.012, cx * 0.5, cy) if half > 0 else box(0.012, 0.1 + abs(half) * 0.5, cx, cy * 0.4)
        parts.append(Part(both(trace, box(0.88, 0.78)), board * np.float32(1.35) + np.float32(0.03), 0.016, 0.01, 0.02))
    for cx, cy in ((-0.78, -0.68), (0.78, -0.68), (-0.78, 0.68), (0.78, 0.68)):
        parts.append(Part(ring(0.08, 0.045, cx, cy), gold, 0.018, 0.02, 0.03))
    places = [(-0.45, -0.35), (0.35, -0.4), (-0.4, 0.35), (0.4, 0.3), (0.0, 0.0), (0.0, 0.6), (0.0, -0.62)]
    for i in rng.permutation(len(places))[: int(rng.integers(4, 8))]:
        cx, cy = places[i]
        kind = int(rng.integers(3))
        if kind == 0:
            for side in (-1, 1):
                legs = both(
                    box(0.2, 0.03, cx, cy + side * 0.15), lambda x, _: np.abs((x * 10) % 1 - np.float32(0.5)) - np.float32(0.25)
                )
                parts.append(Part(legs, gold * np.float32(1.1), 0.02, 0.02, 0.02))
            parts.append(Part(box(0.2, 0.13, cx, cy), black, 0.05, 0.03, 0.03, loose=True, centre=(cx, cy)))
        elif kind == 1:
            body = palette(rng, (0.75, 0.68, 0.55), (0.3, 0.25, 0.2), (0.85, 0.85, 0.85))
            parts.append(Part(box(0.13, 0.06, cx, cy), gold * np.float32(1.2), 0.03, 0.02, 0.02))
            parts.append(Part(box(0.08, 0.062, cx, cy), body, 0.035, 0.02, 0.02, loose=True, centre=(cx, cy)))
        else:
            can = palette(rng, (0.7, 0.7, 0.72), (0.2, 0.2, 0.3))
            parts.append(Part(ring(0.17, 0.15, cx, cy), board * np.float32(0.5) + np.float32(0.4), 0.016, 0.01, 0.02))
            parts.append(Part(box(0.07, 0.03, cx, cy), gold, 0.018, 0.01, 0.02))
            parts.append(Part(circle(0.13, cx, cy), can, 0.07, 0.05, 0.03, loose=True, centre=(cx, cy)))
    return parts


def connector(rng: np.random.Generator) -> list[Part]:
    """A housing with a row of pins."""
    housing, metal = palette(rng, *PLASTIC), palette(rng, *STEEL, *BRASS)
    count, two_rows = int(rng.integers(4, 9)), rng.random() < 0.4
    gap = 1.5 / count
    parts = [
        Part(box(0.9, 0.3, 0, 0.45), housing, 0.05, 0.05, 0.03),
        Part(box(0.82, 0.05, 0, 0.45), housing * np.float32(0.6), 0.03, 0.02),
    ]
    for row in range(2 if two_rows else 1):
        for i in range(count):
            cx = -0.75 + gap * (i + 0.5)
            cy = -0.25 + 0.1 * row
            half = 0.5 if row == 0 else 0.36
            pin = box(gap * 0.18, half, cx + row * gap * 0.45, cy)
            parts.append(Part(pin, metal, 0.03, gap * 0.18, 0.03, loose=True, centre=(cx, cy)))
    return parts


def cable(rng: np.random.Generator) -> list[Part]:
    """The cut end of a cable: sheath, wires, strands."""
    sheath = palette(rng, (0.15, 0.15, 0.16), (0.75, 0.75, 0.74), (0.45, 0.45, 0.47))
    colours = ((0.2, 0.5, 0.25), (0.5, 0.32, 0.18), (0.25, 0.35, 0.7), (0.75, 0.7, 0.2))
    copper = palette(rng, (0.75, 0.45, 0.3), (0.75, 0.7, 0.6), spread=0.03)
    parts = [Part(circle(0.92), sheath, 0.03, 0.1, 0.05), Part(circle(0.76), sheath * np.float32(0.35), 0.0, 0.05, 0.05)]
    count, turn = int(rng.integers(3, 5)), rng.uniform(0, np.pi)
    away, radius = (0.4, 0.33) if count == 3 else (0.44, 0.28)
    for i in range(count):
        a = turn + 2 * np.pi * i / count
        cx, cy = away * np.cos(a), away * np.sin(a)
        wire = np.asarray(colours[i], dtype=np.float32) * np.float32(rng.uniform(0.85, 1.15))
        parts.append(Part(circle(radius, cx, cy), wire, 0.04, 0.08, 0.04, loose=True, centre=(cx, cy)))
        core = circle(radius * 0.6, cx, cy)

        def strands(x: Field, y: Field, core: Shape = core) -> Field:
            u, v = x * np.float32(7.5), (y + x * np.float32(0.5)) * np.float32(8.6)
            cell = np.hypot(u % 1 - np.float32(0.5), v % 1 - np.float32(0.5)) * np.float32(0.12) - np.float32(0.05)
            return np.maximum(core(x, y), cell)

        parts.append(Part(core, copper * np.float32(0.45), 0.03, 0.03, 0.03))
        parts.append(Part(strands, copper, 0.045, 0.05, 0.05))
    return parts


def biscuit(rng: np.random.Generator) -> list[Part]:
    """A baked biscuit, round or square, with pricks or chips."""
    colour = palette(rng, (0.75, 0.55, 0.3), (0.62, 0.42, 0.22), (0.35, 0.22, 0.14), (0.85, 0.7, 0.45))
    body = (circle(0.85), box(0.8, 0.8, corner=0.12), wavy(0.82, 0.03, 20))[int(rng.integers(3))]
    parts = [Part(body, colour, 0.05, rng.uniform(0.1, 0.25), 0.16)]
    steps = int(rng.integers(2, 4))
    dark = colour * np.float32(rng.uniform(0.4, 0.7))
    for i in range(steps):
        for j in range(steps):
            at = ((i - (steps - 1) / 2) * 0.4, (j - (steps - 1) / 2) * 0.4)
            parts.append(Part(circle(0.055, *at), dark, 0.02, 0.04, 0.1, loose=True, centre=at))
    return parts


def bracket(rng: np.random.Generator) -> list[Part]:
    """A flat metal plate, L-shaped or straight, with bores."""
    colour = palette(rng, *STEEL, (0.15, 0.15, 0.16), (0.75, 0.6, 0.2))
    tall, flat = box(0.25, 0.85, -0.55, corner=0.06), box(0.8, 0.25, 0.0, 0.6, corner=0.06)
    body: Shape = (lambda x, y: np.minimum(tall(x, y), flat(x, y))) if rng.random() < 0.6 else box(0.9, 0.35, corner=0.1)
    straight = body(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))[0, 0] < 0
    many = rng.random() < 0.5
    if straight:
        places = [(-0.65, 0.0), (-0.22, 0.0), (0.22, 0.0), (0.65, 0.0)] if many else [(-0.65, 0.0), (0.65, 0.0)]
    else:
        places = [(-0.55, -0.6), (-0.55, 0.6), (0.55, 0.6), *([(-0.55, 0.0), (0.0, 0.6)] if many else [])]
    bore = rng.uniform(0.07, 0.12)
    return [Part(body, colour, 0.03, 0.04), *(Part(circle(bore, *at), colour, loose=True, centre=at, cut=True) for at in places)]


def coin(rng: np.random.Generator) -> list[Part]:
    """A coin: rim, beads, a relief."""
    colour = palette(rng, *STEEL, *BRASS)
    beads = int(rng.integers(24, 48))
    parts = [
        Part(circle(0.9), colour, 0.02, 0.03),
        Part(ring(0.9, 0.8), colour * np.float32(1.1), 0.035, 0.04),
        Part(
            both(ring(0.77, 0.7), lambda x, y: np.cos(np.arctan2(y, x) * np.float32(beads)) * np.float32(0.03)),
            colour * np.float32(1.1),
            0.03,
            0.02,
        ),
    ]
    relief = (wavy(0.35, 0.12, int(rng.integers(4, 9))), polygon(int(rng.integers(3, 7)), 0.33), ring(0.4, 0.25))[
        int(rng.integers(3))
    ]
    return [*parts, Part(relief, colour * np.float32(1.12), 0.04, 0.08, loose=True)]


def spring(rng: np.random.Generator) -> list[Part]:
    """A coil spring from the side."""
    colour = palette(rng, *STEEL, (0.2, 0.2, 0.2))
    count, tall, thick = int(rng.integers(6, 12)), rng.uniform(0.3, 0.45), rng.uniform(0.045, 0.07)
    gap = 1.6 / count
    parts = []
    for back in (True, False):
        for i in range(count + (0 if back else 1)):
            cx = -0.8 + gap * (i + (0.5 if back else 0.0))
            lean = gap * 0.5 / (2 * tall) * (-1 if back else 1)

            def coil(x: Field, y: Field, cx: float = cx, lean: float = lean) -> Field:
                u = x - np.float32(cx) - y * np.float32(lean)
                return (np.hypot(u, y - np.clip(y, -tall, tall)) - np.float32(thick)).astype(np.float32)

            shade = np.float32(0.6 if back else 1.0)
            loose = not back and 0 < i < count
            parts.append(Part(coil, colour * shade, 0.03 if back else 0.06, thick, 0.03, loose=loose, centre=(cx, 0.0)))
    return parts


def bearing(rng: np.random.Generator) -> list[Part]:
    """A ball bearing from the side of its balls."""
    colour = palette(rng, *STEEL)
    parts = [
        Part(ring(0.92, 0.26), colour * np.float32(0.35), 0.0, 0.03),
        Part(ring(0.92, 0.72), colour, 0.05, 0.06),
        Part(ring(0.48, 0.26), colour, 0.05, 0.06),
    ]
    count = int(rng.integers(7, 11))
    for i in range(count):
        a = 2 * np.pi * i / count
        at = (0.6 * np.cos(a), 0.6 * np.sin(a))
        parts.append(Part(circle(0.12, *at), colour * np.float32(1.1), 0.06, 0.12, 0.02, loose=True, centre=at))
    return parts


def button(rng: np.random.Generator) -> list[Part]:
    """A sewing button with two or four holes."""
    colour = palette(rng, *PLASTIC, (0.5, 0.35, 0.2), (0.9, 0.87, 0.8))
    parts = [Part(circle(0.88), colour, 0.05, 0.12, 0.03), Part(circle(0.6), colour * np.float32(0.92), 0.035, 0.08, 0.03)]
    places = [(-0.18, -0.18), (0.18, 0.18), (-0.18, 0.18), (0.18, -0.18)] if rng.random() < 0.7 else [(-0.2, 0.0), (0.2, 0.0)]
    return [*parts, *(Part(circle(0.09, *at), colour, loose=True, centre=at, cut=True) for at in places)]


OBJECTS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "washer": washer,
    "metal nut": metal_nut,
    "gear": gear,
    "screw": screw,
    "pill": pill,
    "capsule": two_part_capsule,
    "bottle": bottle,
    "bottle cap": bottle_cap,
    "bean": bean,
    "circuit board": circuit_board,
    "connector": connector,
    "cable": cable,
    "biscuit": biscuit,
    "bracket": bracket,
    "coin": coin,
    "spring": spring,
    "bearing": bearing,
    "button": button,
}
