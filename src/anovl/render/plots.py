"""Plots as SVG text: lines and dots on two axes, for a page or a file of their own; no plotting library on the run-time path."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import numpy.typing as npt

from anovl.errors import UsageError

Points = npt.NDArray[np.floating]

WIDTH, HEIGHT = 360, 300  # of the drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 30, 42
_BARS = {"below": "#3a8f86", "over": "#d8582f"}  # normal, anomalous; readable on white and on black
_LEGEND_ROW, _LEGEND_MOST = 18, 8  # more names than this are told by the lines' own titles


@dataclass(frozen=True, eq=False)
class Line:
    """A named line or cloud of dots.

    Attributes:
        name: in the legend, and shown where the pointer rests.
        points: [K, 2], x and y.
        band: [K] half-widths in y drawn around the line; None for none.
        dots: points alone, without the line.
        shade: [K] opacities in [0, 1] of the dots; None is opaque.
        colour: a CSS colour; None takes the next of the palette.
    """

    name: str
    points: Points = field(repr=False)
    band: Points | None = field(default=None, repr=False)
    dots: bool = False
    shade: Points | None = field(default=None, repr=False)
    colour: str | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 2 or not np.isfinite(self.points).all():
            raise UsageError(f"line {self.name!r}: expected finite points [K, 2], got {self.points.shape}")


@dataclass(frozen=True)
class Plot:
    """Lines on two axes.

    Attributes:
        title: above it.
        x_label, y_label: of the axes.
        lines: drawn in this order.
        x_range, y_range: (low, high); None fits the points.
        axes: ticks and numbers; off where coordinates mean nothing (t-SNE).
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    x_range: tuple[float, float] | None = (0.0, 1.0)
    y_range: tuple[float, float] | None = (0.0, 1.0)
    axes: bool = True

    def svg(self) -> str:
        """The drawing, black on white as a file, in the page's own ink on a page."""
        x_low, x_high = self.x_range or _fitted([line.points[:, 0] for line in self.lines])
        y_low, y_high = self.y_range or _fitted(
            [line.points[:, 1] + sign * _half(line) for line in self.lines for sign in (-1, 1)]
        )
        legend = self.lines if len(self.lines) <= _LEGEND_MOST else ()
        height = HEIGHT + _LEGEND_ROW * len(legend)

        def x_at(x: Points) -> Points:
            return _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

        def y_at(y: Points) -> Points:
            return HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)

        box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(self.title)}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="11" fill="currentColor">',
            f'<text x="{_LEFT}" y="16" font-size="13" font-weight="600">{escape(self.title)}</text>',
        ]
        frame = f'x="{_LEFT}" y="{_TOP}" width="{WIDTH - _LEFT - _RIGHT}" height="{HEIGHT - _TOP - _BOTTOM}"'
        parts.append(f'<rect {frame} fill="none" stroke="currentColor" stroke-opacity=".3"/>')
        for tick in _ticks(x_low, x_high) if self.axes else ():
            across = float(x_at(np.array(tick)))
            parts.append(f'<text x="{across:.1f}" y="{HEIGHT - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>')
        for tick in _ticks(y_low, y_high) if self.axes else ():
            down = float(y_at(np.array(tick)))
            parts.append(f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{tick:g}</text>')
            parts.append(f'<path d="M{_LEFT} {down:.1f}H{WIDTH - _RIGHT}" stroke="currentColor" stroke-opacity=".12"/>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle" opacity=".75">{escape(self.x_label)}</text>')
        side = (_TOP + HEIGHT - _BOTTOM) / 2
        turned = f'transform="rotate(-90 12 {side})"'
        parts.append(f'<text x="12" y="{side}" text-anchor="middle" opacity=".75" {turned}>{escape(self.y_label)}</text>')
        for index, line in enumerate(self.lines):
            colour = line.colour or _colour(index, len(self.lines))
            x, y, half = x_at(line.points[:, 0]), line.points[:, 1], _half(line)
            title = f"<title>{escape(line.name)}</title>"
            if line.dots:
                shades = np.ones(len(x)) if line.shade is None else line.shade
                circles = (
                    f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4" fill-opacity="{s:.2f}"/>'
                    for a, b, s in zip(x, y_at(y), shades, strict=True)
                )
                parts.append(f'<g fill="{colour}">{title}{"".join(circles)}</g>')
                continue
            if line.band is not None:
                outline = _path(np.append(x, x[::-1]), y_at(np.append(y + half, (y - half)[::-1])))
                parts.append(f'<path d="{outline}Z" fill="{colour}" fill-opacity=".18"/>')
            path = _path(x, y_at(y))
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6">{title}</path>')
        for index, line in enumerate(legend):
            y_key = HEIGHT + _LEGEND_ROW * index + 4
            colour = line.colour or _colour(index, len(self.lines))
            parts.append(f'<path d="M{_LEFT} {y_key}h18" stroke="{colour}" stroke-width="4"/>')
            parts.append(f'<text x="{_LEFT + 26}" y="{y_key + 4}">{escape(line.name)}</text>')
        return "".join([*parts, "</svg>"])


@dataclass(frozen=True, eq=False)
class Histogram:
    """How scores are spread, and where the threshold stands among them.

    Attributes:
        title: above it.
        scores: [N] finite values.
        threshold: scores at or over it are drawn in another colour.
        bins: how many.
    """

    title: str
    scores: Points = field(repr=False)
    threshold: float
    bins: int = 24

    def svg(self) -> str:
        """The drawing in the page's own ink; a bar on the threshold is drawn in two colours."""
        width, height, left, top, bottom = 640, 200, 40, 34, 40
        low, high = _fitted([self.scores, np.array([self.threshold])])
        edges = np.linspace(low, high, self.bins + 1)
        below, _ = np.histogram(self.scores[self.scores < self.threshold], edges)
        over, _ = np.histogram(self.scores[self.scores >= self.threshold], edges)
        most = max(int((below + over).max()), 1)
        step = (width - left - 10) / self.bins
        scale = (height - top - bottom) / most
        told = f"{self.title}: {len(self.scores)} scores from {self.scores.min():.3g} to {self.scores.max():.3g}, "
        told += f"{int(over.sum())} at or over the threshold {self.threshold:.3g}"
        box = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(told)}"'
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12" fill="currentColor">',
            f'<text x="{left}" y="16" font-weight="600">{escape(self.title)}</text>',
            f'<path d="M{left} {height - bottom}H{width - 10}" stroke="currentColor" stroke-opacity=".4"/>',
            f'<text x="{left - 6}" y="{top + 4}" text-anchor="end">{most}</text>',
        ]
        for index in range(self.bins):
            base = float(height - bottom)
            for count, kind in ((int(below[index]), "below"), (int(over[index]), "over")):
                if count:
                    base -= count * scale
                    box = f'x="{left + index * step + 1:.1f}" y="{base:.1f}" width="{step - 2:.1f}" height="{count * scale:.1f}"'
                    parts.append(f'<rect {box} rx="2" fill="{_BARS[kind]}"/>')

        def x_at(value: float) -> float:
            return left + (value - low) / (high - low) * (width - left - 10)

        middle = f'y="{height - bottom + 16}" text-anchor="middle"'
        parts += [f'<text x="{x_at(tick):.1f}" {middle}>{tick:g}</text>' for tick in _ticks(low, high)]
        at = x_at(self.threshold)
        anchor = "end" if at > width / 2 else "start"
        parts.append(
            f'<path d="M{at:.1f} {top - 8}V{height - bottom}" stroke="currentColor" stroke-width="2" stroke-dasharray="5 3"/>'
        )
        label = f'x="{at + (-6 if anchor == "end" else 6):.1f}" y="{top}" text-anchor="{anchor}"'
        parts.append(f"<text {label}>threshold {self.threshold:.3g}</text>")
        parts.append(f'<text x="{(left + width) / 2}" y="{height - 6}" text-anchor="middle" opacity=".75">image score</text>')
        return "".join([*parts, "</svg>"])


def _half(line: Line) -> Points:
    return np.zeros(len(line.points)) if line.band is None else line.band


def _path(x: Points, y: Points) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y, strict=True))


def _fitted(values: Sequence[Points]) -> tuple[float, float]:
    """A range around the values with a little room."""
    some = np.concatenate(values) if values else np.array([0.0, 1.0])
    low, high = float(some.min()), float(some.max())
    room = (high - low) * 0.06 or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers in a range."""
    step = 10.0 ** np.floor(np.log10((high - low) / 4))
    step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 7)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(index * float(step), 10) for index in range(first, last + 1)]


def _colour(index: int, count: int) -> str:
    """Hues around the circle, two lightnesses in turn where there are many; readable on white and on black."""
    red, green, blue = colorsys.hls_to_rgb((0.55 + index / max(count, 1)) % 1, 0.5 if index % 2 else 0.42, 0.65)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
