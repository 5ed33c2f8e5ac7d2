"""What the page says in words: HTML for a picture, for a batch, and for what went wrong."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from anovl.config import REGIONS_DRAWN
from anovl.profiles import Profile
from anovl.render.plots import Histogram
from anovl.results import Prediction, Region
from anovl.webui.session import Found, Session


def verdict(name: str, prediction: Prediction, regions: Sequence[Region]) -> str:
    """The decision on one picture."""
    kind = "anomalous" if prediction.pred_label else "normal"
    height, width = prediction.image_size
    area = sum(region.area for region in regions) / prediction.anomaly_map.size
    spread = "" if prediction.pred_score_std is None else f" ± {prediction.pred_score_std:.3f}"
    found = "no region" if not regions else "1 region" if len(regions) == 1 else f"{len(regions)} regions"
    milliseconds = sum(prediction.timings_ms.values())
    return (
        f'<p class="verdict {kind}"><strong>{kind}</strong> score {prediction.pred_score:.3f}{spread}, '
        f"threshold {prediction.threshold:.3f}{', calibrated' if prediction.calibrated else ', not calibrated'}</p>"
        f'<p class="soft">{escape(name)}: {width} x {height} px, {escape(prediction.class_name)}, {found}, '
        f"{area:.2%} of the picture marked at {prediction.pixel_threshold:.3f}, {milliseconds:.0f} ms</p>"
    )


def counts(session: Session, threshold: float) -> str:
    """How a batch came out; empty for a single picture."""
    if len(session.found) < 2:
        return ""
    over = sum(found.pred_score >= threshold for found in session.found)
    return f"<p><strong>{len(session.found)} pictures</strong>, {over} anomalous, {len(session.found) - over} normal.</p>"


def failures(session: Session) -> str:
    """The files that could not be used, and why."""
    if not session.failed:
        return ""
    rows = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(reason)}</li>" for name, reason in session.failed[:REGIONS_DRAWN]
    )
    more = len(session.failed) - REGIONS_DRAWN
    rows += f"<li>and {more} more; all are in errors.jsonl of the download</li>" if more > 0 else ""
    files = "1 file" if len(session.failed) == 1 else f"{len(session.failed)} files"
    return f'<div class="problem" role="alert"><p>{files} could not be read:</p><ul>{rows}</ul></div>'


def progress(done: int, count: int) -> str:
    """How far a run is."""
    return (
        f'<p role="status">{done} of {count} scored</p><progress aria-label="Progress" max="{count}" value="{done}"></progress>'
    )


def problem(text: str) -> str:
    """Something the visitor can mend."""
    return f'<div class="problem" role="alert"><p>{escape(text)}</p></div>'


def note(text: str) -> str:
    """Something to know."""
    return f'<p class="note">{escape(text)}</p>'


def beside(model: Mapping[str, Any]) -> list[str]:
    """What joins the words and the whole picture in a model's scores, of what `describe` tells: banks and tiles."""
    said = [
        f"{name}: compared with {bank['pictures']} good picture{'s' if bank['pictures'] > 1 else ''} too (bank {bank['key']})."
        for name, bank in model.get("banks", {}).items()
    ]
    if tiling := model.get("tiling"):
        sides = ", ".join(map(str, tiling["sides"]))
        said += [f"Pictures are looked at whole and in tiles of {sides} px."] if sides else []
        said += ["Only the part in front of a plain background is looked at."] if tiling["crop"] == "foreground" else []
    return said


def calibrated(profile: Profile, differences: Sequence[str]) -> str:
    """What a profile promises, and whether it is for what is shown."""
    words = f"<p>Image threshold {profile.image_threshold:.4f}, pixel threshold {profile.pixel_threshold:.4f}.</p>"
    words += f'<p class="soft">{escape(profile.guarantee())}</p>'
    if differences:
        words += note(f"The results shown are not of this kind, their thresholds stay. Made for {'; '.join(differences)}.")
    return f'<div role="status">{words}</div>'


def region_table(regions: Sequence[Region]) -> str:
    """The regions of the mask, in pixels of the picture."""
    if not regions:
        return '<p class="soft">No pixel reaches the pixel threshold.</p>'
    named = regions[0].name is not None
    titles = ("#", "left", "top", "right", "bottom", "area, px", "peak", *(("resembles", "margin") if named else ()))
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    rows = "".join(
        f'<tr><th scope="row">{number}</th>'
        + "".join(f"<td>{value}</td>" for value in (*region.box, region.area, f"{region.peak:.3f}", *_names(region)))
        + "</tr>"
        for number, region in enumerate(regions[:REGIONS_DRAWN], 1)
    )
    more = len(regions) - REGIONS_DRAWN
    rest = f'<p class="soft">and {more} more with lower peaks</p>' if more > 0 else ""
    caption = "<caption>Regions, highest peak first; right and bottom are exclusive</caption>"
    # a table that can be wider than a phone is scrolled, by keyboard too
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Regions">'
        f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{rest}"
    )


def _names(region: Region) -> tuple[str, ...]:
    """Names with their similarities, and the margin; nothing where there are none."""
    if region.margin is None:
        return ()
    return ", ".join(f"{escape(name)} {similarity:.3f}" for name, similarity in region.names), f"{region.margin:.3f}"


@dataclass(frozen=True)
class Tile:
    """A picture to choose.

    Attributes:
        jpeg: a small JPEG file.
        lines: what is said under it.
    """

    jpeg: bytes
    lines: tuple[str, ...]


def gallery(name: str, tiles: Sequence[Tile]) -> str:
    """Buttons with a picture and its words."""
    parts = []
    for index, tile in enumerate(tiles):
        source = f"data:image/jpeg;base64,{base64.b64encode(tile.jpeg).decode('ascii')}"
        words = "".join(f"<span>{escape(line)}</span>" for line in tile.lines)
        parts.append(f'<li><button type="button" data-index="{index}"><img src="{source}" alt="">{words}</button></li>')
    return f'<ul class="tiles" aria-label="{escape(name)}">{"".join(parts)}</ul>'


def histogram(found: Sequence[Found], threshold: float) -> str:
    """The scores of a batch; empty for a single picture."""
    if len(found) < 2:
        return ""
    scores = np.array([one.pred_score for one in found])
    drawn = Histogram("Scores of the batch", scores, threshold).svg()
    return f'<div class="scroll plot" tabindex="0" role="region" aria-label="Scores of the batch">{drawn}</div>'
