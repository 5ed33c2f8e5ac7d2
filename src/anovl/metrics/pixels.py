"""Figures of anomaly maps against masks, exact at every threshold, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from anovl.errors import UsageError
from anovl.metrics.checks import as_labels, as_scores
from anovl.metrics.outline import Curve, Outline
from anovl.metrics.regions import legacy_pro, region_shares
from anovl.metrics.resampling import Sample, draw, intervals
from anovl.metrics.runs import Run, Store, descend
from anovl.metrics.spill import SpillFile
from anovl.metrics.steps import Sums, Whole

Maps = npt.NDArray[Any] | Iterable[npt.ArrayLike]


@dataclass(frozen=True)
class PixelFigures:
    """How well anomaly maps find defects, in [0, 1].

    Attributes:
        auroc, f1_max, ap: over all pixels of all images, as `anovl.metrics.auroc`, `f1_max`, `average_precision`.
        pro: per-region overlap, as `PixelMetrics` was told.
        threshold: the highest one whose decision score >= threshold has that F1.
        curves: "roc", "pr" and "pro" (exact, whichever figure was asked for) for a plot, as `Outline.curves`.
    """

    auroc: float
    f1_max: float
    ap: float
    pro: float
    threshold: float
    curves: dict[str, Curve]


class PixelMetrics:
    """Exact figures of any number of maps.

    Every score is kept: sorted, in memory up to a budget and in an unnamed temporary file beyond it, 4 bytes a good
    pixel of float32 maps and 12 a defect pixel. On top of the budget come about 50 KB an image for `bootstrap`, and the
    work on one image.
    Pickles carry everything, the content of the file too. Not for use from several threads at once.

    Args:
        memory: bytes, of scores held and of the work on them.
        folder: of the temporary file; None for the system's own, which may lie in memory on some systems.
        pro: "exact": Bergmann et al. 2020, "Uninformed Students": mean over the 8-connected regions of all images
            of the share of a region at or above a threshold, against the false-positive rate over all good pixels,
            area up to the limit, interpolated there, divided by the limit. "legacy-200": from 200 thresholds, as
            most published tables (`anovl.metrics.regions.legacy_pro`).
        pro_limit: largest false-positive rate that counts for PRO, above 0 and at most 1.

    Raises:
        UsageError: a setting is out of range, or the folder is none.
    """

    def __init__(
        self,
        *,
        memory: int = 512 * 2**20,
        folder: str | Path | None = None,
        pro: Literal["exact", "legacy-200"] = "exact",
        pro_limit: float = 0.3,
    ) -> None:
        if memory < 1:
            raise UsageError(f"memory: expected 1 byte or more, got {memory}")
        if folder is not None and not Path(folder).is_dir():
            raise UsageError(f"folder: expected a folder for temporary files, got {folder}")
        if pro not in ("exact", "legacy-200"):
            raise UsageError(f"pro: expected exact or legacy-200, got {pro}")
        if not 0 < pro_limit <= 1:
            raise UsageError(f"pro_limit: expected a false-positive rate above 0 and at most 1, got {pro_limit}")
        self._settings: dict[str, Any] = {"memory": memory, "folder": folder, "pro": pro, "pro_limit": pro_limit}
        self._memory, self._pro, self._limit = memory, pro, pro_limit
        file = SpillFile(None if folder is None else Path(folder))
        self._good, self._bad = Store(memory // 4, file), Store(memory // 8, file)
        self._samples: list[Sample] = []  # one an image
        self._regions = 0

    def update(self, maps: Maps, masks: Maps) -> None:
        """Take in images, one after the other: those before a faulty one count.

        Args:
            maps: [H, W], a batch [B, H, W], or an iterable of [H, W] whose sizes may differ; finite numbers, larger
                means more anomalous. float64 stays so. The arrays may be reused afterwards.
            masks: of the same shapes, bool or 0 and 1; True on the defect.

        Raises:
            UsageError: they are not as above.
            OutputError: the temporary file cannot be written; all images so far count, beyond the budget in memory.
        """
        pairs: Iterable[tuple[Any, Any]]
        pairs = zip_longest([maps], [masks]) if getattr(maps, "ndim", 3) == 2 else zip_longest(maps, masks)
        for index, (raw_map, raw_mask) in enumerate(pairs):
            if raw_map is None or raw_mask is None:
                some = "fewer" if raw_mask is None else "more"
                raise UsageError(f"masks: expected one a map, got {some} (maps: {index} and on)")
            values, mask = as_scores(f"map {index}", raw_map), as_labels(f"mask {index}", raw_mask)
            if values.ndim != 2 or values.shape != mask.shape:
                raise UsageError(f"map {index}: expected (H, W) of map and mask alike, got {values.shape} and {mask.shape}")
            shares, regions = region_shares(mask)
            good, bad = values[~mask], values[mask]
            self._good.add(Run(good))
            self._bad.add(Run(bad, shares))
            self._regions += regions
            self._samples.append(draw(good, bad, shares))
            self._spill()

    def merge(self, other: PixelMetrics) -> None:
        """Take in all that another one has; the other one stays as it is.

        Raises:
            UsageError: it computes another PRO.
            OutputError: as `update`.
        """
        self._take(other, own=True)
        self._spill()

    @classmethod
    def combined(cls, parts: Iterable[PixelMetrics]) -> PixelMetrics:
        """The metrics of all parts together, such as the good images and one kind of defect.

        The parts stay as they are and share their scores with it: nothing is copied or written.

        Raises:
            UsageError: they compute different PROs.
        """
        parts = list(parts)
        first: PixelMetrics = parts[0] if parts else cls()
        whole = cls(**first._settings)
        for part in parts:
            whole._take(part, own=False)
        return whole

    def compute(self) -> PixelFigures:
        """Figures of all images so far; more may come after.

        Raises:
            UsageError: no image, no defect in any mask, or no good pixel.
        """
        good, bad, whole = self._whole()
        sums, outline = Sums(whole), Outline(whole)
        for steps in descend(good, bad, self._memory // 2):
            sums.add(steps)
            outline.add(steps)
        pro = sums.pro if self._pro == "exact" else legacy_pro(good, bad, limit=self._limit)
        return PixelFigures(sums.auroc, sums.f1_max, sums.ap, pro, sums.threshold, outline.curves())

    def bootstrap(self, *, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
        """Confidence intervals: images are drawn with replacement, good ones and ones with a defect apart.

        An approximation of the intervals, not of the figures: at most 2,000 good and 2,000 defect pixels stand for
        each image, and scores are counted at 1,000 levels.

        Args:
            samples: sets of images to draw, at least 1.
            level: chance that an interval is to cover, between 0 and 1.
            seed: of the draws; the order in which images came does not matter.

        Returns:
            (low, high) by "auroc", "f1_max", "ap" and, unless it is legacy-200, "pro".

        Raises:
            UsageError: as `compute`, or a setting is out of range.
        """
        self._whole()  # says why, where there is no figure
        limit = self._limit if self._pro == "exact" else None
        return intervals(self._samples, resamples=samples, level=level, seed=seed, limit=limit)

    def _take(self, other: PixelMetrics, *, own: bool) -> None:
        if (other._pro, other._limit) != (self._pro, self._limit):
            mine, theirs = f"{self._pro} up to {self._limit}", f"{other._pro} up to {other._limit}"
            raise UsageError(f"expected metrics with the same PRO, {mine}, got {theirs}")
        self._good.extend(other._good.runs(), own=own)
        self._bad.extend(other._bad.runs(), own=own)
        self._regions += other._regions
        self._samples += other._samples

    def _spill(self) -> None:
        self._good.spill()
        self._bad.spill()

    def _whole(self) -> tuple[list[Run], list[Run], Whole]:
        """Sorted runs of good and of defect pixels, and their counts.

        Raises:
            UsageError: one of them is empty.
        """
        good, bad = self._good.runs(), self._bad.runs()
        if not good or not bad:
            kind = "no mask marks a defect" if not bad else "the masks leave no good pixel"
            raise UsageError(f"pixel AUROC or PRO needs defects and good pixels; of {len(self._samples)} images, {kind}")
        return good, bad, Whole(sum(map(len, good)), sum(map(len, bad)), self._regions, self._limit)


def pro(maps: Maps, masks: Maps, *, limit: float = 0.3) -> float:
    """Exact per-region overlap, as `PixelMetrics`.

    Args:
        maps, masks: as `PixelMetrics.update`.
        limit: largest false-positive rate that counts, above 0 and at most 1.

    Returns:
        the normalised area, 0 to 1.

    Raises:
        UsageError: as `PixelMetrics.update` and `PixelMetrics.compute`.
    """
    metrics = PixelMetrics(pro_limit=limit)
    metrics.update(maps, masks)
    return metrics.compute().pro
