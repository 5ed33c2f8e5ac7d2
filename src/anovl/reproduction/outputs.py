"""Results as files: a table is Markdown, which reads as well on a terminal, and JSON; a figure PNG or SVG, and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from anovl.files import replacing, write_json
from anovl.render.writers import save_image
from anovl.reproduction import figures
from anovl.reproduction.paper import TIME, Published
from anovl.reproduction.tables import Ours, Result, Source

_HEADINGS = {
    "image_auroc": "image AUROC",
    "image_f1max": "image F1max",
    "image_ap": "image AUPR",
    "pixel_auroc": "pixel AUROC",
    "pixel_f1max": "pixel F1max",
    "pixel_pro": "PRO",
    TIME: "time, ms",
}
_TOGETHER = 4  # figures side by side; more go below each other
Value = tuple[float, float | None] | Published | None


def markdown(results: Sequence[Result]) -> str:
    """All results, one under the other."""
    return "\n".join(line for result in results for line in _section(result))


def _section(result: Result) -> Iterator[str]:
    facts = result.facts
    yield f"## {result.name.replace('table', 'Table ')}: {result.table.title}"
    yield ""
    yield (
        f"{result.dataset}, {facts['images']} images of {facts['categories']} categories; {result.model}, recipe "
        f"{facts['recipe']}; {len(facts['seeds'])} seeds; resolution {facts['resolution']}; {facts['machine']}."
    )
    if not result.of_paper:
        yield "The paper's numbers are of MVTec AD: other pictures than these, there for orientation."
    yield ""
    columns = range(len(result.table.columns))
    for first in range(0, len(columns), 3 if len(columns) > _TOGETHER else _TOGETHER):
        yield from _block(result, columns[first : first + (3 if len(columns) > _TOGETHER else _TOGETHER)])
        yield ""
    reasons = dict.fromkeys(row.reason for row in result.rows if row.reason)
    for reason in reasons:
        yield f"- {', '.join(row.label for row in result.rows if row.reason == reason)}: {reason}."
    if result.table.note:
        yield f"- {result.table.note}"
    yield ""


def _block(result: Result, columns: range) -> Iterator[str]:
    """Some figures of every row: ours, the paper's, the difference."""
    header = ["", *(text for column in columns for text in (_HEADINGS[result.table.columns[column]], "paper", "difference"))]
    rows = [[row.label, *(text for column in columns for text in _cells(row, column))] for row in result.rows]
    widths = [max(len(line[place]) for line in [header, *rows]) for place in range(len(header))]
    yield _line(header, widths)
    yield "|" + "|".join("-" * (width + 2) if not place else "-" * (width + 1) + ":" for place, width in enumerate(widths)) + "|"
    for row in rows:
        yield _line(row, widths)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    return f"| {first[0]:{first[1]}} | " + " | ".join(f"{text:>{width}}" for text, width in rest) + " |"


def _cells(row: Ours, column: int) -> tuple[str, str, str]:
    ours, paper = row.values[column], row.published[column]
    difference = "" if ours is None or paper is None or paper[0] is None else f"{ours[0] - paper[0]:+.1f}"
    return _shown(ours), _shown(paper), difference


def _shown(value: Value) -> str:
    if value is None or value[0] is None:
        return "-"
    return f"{value[0]:.1f}" + (f" ± {value[1]:.1f}" if value[1] else "")


def write_tables(results: Sequence[Result], path: Path, *, versions: Mapping[str, str] | None = None) -> tuple[Path, Path]:
    """Write PATH.md and PATH.json; returns both paths.

    Raises:
        OutputError: they cannot be written.
    """
    text, data = path.with_suffix(".md"), path.with_suffix(".json")
    _write(text, markdown(results))
    write_json(data, {"results": [result.to_dict() for result in results], "versions": dict(versions or {})})
    return text, data


def draw_figure(name: str, source: Source, path: Path, *, seeds: Sequence[int], **options: Any) -> list[Path]:
    """Compute a figure and write PATH.png or PATH.svg, with its numbers in PATH.json; returns the paths.

    Args:
        name: "fig4", "fig5" or "fig6".
        source: data set and model.
        path: without a suffix.
        seeds: of the adaptation; Fig. 4 and 6 take the first.
        **options: of `anovl.evaluation.evaluate`.

    Raises:
        UsageError, AnovlError, OutputError: as `evaluate`.
        MissingExtraError: Fig. 6 without scikit-learn.
    """
    facts: dict[str, Any] = {"figure": name, "dataset": source.dataset.title, "model": source.detector.backbone.name}
    if name == "fig4":
        return [save_image(figures.maps_figure(source, seeds=seeds[:1], **options), path.with_suffix(".png"))]
    if name == "fig5":
        plot, points = figures.steps_figure(source, seeds=seeds, **options)
        drawn, facts = [(plot, path.with_suffix(".svg"))], facts | {"seeds": list(seeds), "points": points}
    else:
        plots, which = figures.tokens_figure(source, seed=seeds[0])
        drawn = [(plot, path.with_name(f"{path.name}-{kind}.svg")) for plot, kind in zip(plots, ("tfa", "tta"), strict=True)]
        facts |= which
    for one, place in drawn:
        _write(place, one.svg())
    write_json(path.with_suffix(".json"), facts)
    return [place for _, place in drawn]


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
