"""What a detector returns for one image, checked once where it is made."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from anovl.config import DEFAULT_THRESHOLD, NAMES_TOLD
from anovl.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]  # RGB


class ImageScores(NamedTuple):
    """What a model gives for one image.

    Attributes:
        image_score: in [0, 1].
        patch_scores: [h, w] in [0, 1].
        image_seeds: [S] one score a seed, and
        patch_seeds: [S, h, w], where there were several; the two above are their means.
        name_scores: [h, w, K] cosines with the names of defects in [-1, 1], where names were asked for (`anovl.naming`).
    """

    image_score: np.float32
    patch_scores: FloatArray
    image_seeds: FloatArray | None = None
    patch_seeds: FloatArray | None = None
    name_scores: FloatArray | None = None


@dataclass(frozen=True)
class Region:
    """One 8-connected region of the mask, in pixels of the anomaly map.

    Attributes:
        box: (left, top, right, bottom), right and bottom exclusive.
        area: pixels in the region.
        peak: largest value of the map inside, in [0, 1].
        centroid: (x, y), the mean position of its pixels.
        names: the words it resembles most, (word, similarity in [-1, 1]), best first, at most three; none where names were not
            asked for (`anovl.naming`).
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float
    centroid: tuple[float, float]
    names: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str | None:
        """The best word."""
        return self.names[0][0] if self.names else None

    @property
    def margin(self) -> float | None:
        """What the best word's similarity is ahead of the next one's."""
        return self.names[0][1] - self.names[1][1] if self.names else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "box": list(self.box),
            "area": self.area,
            "peak": self.peak,
            "centroid": list(self.centroid),
            "name": self.name,
            "margin": self.margin,
            "names": [{"name": name, "similarity": similarity} for name, similarity in self.names],
        }


@dataclass(frozen=True, eq=False)
class Prediction:
    """Scores of one image; the field names are anomalib's.

    Attributes:
        image_path: the file it came from; None for arrays and bytes.
        image_size: (H, W) of the image in pixels, after EXIF rotation.
        class_name: what the image shows.
        pred_score: image anomaly score in [0, 1].
        threshold: the decision is pred_score >= threshold.
        pixel_threshold: the mask is anomaly_map >= pixel_threshold; if not given, the same.
        calibrated: the thresholds are those of a profile (`anovl.calibration`); if not, no rate of false alarms is known.
        probability: that the image is anomalous, in [0, 1], where a profile was fitted to labels; else None.
        anomaly_map: float32 [H, W] in [0, 1], at the image's own size, or the model's input size for
            ``output_size="input"``.
        patch_scores: float32 [h, w] in [0, 1], one value a patch, before smoothing and up-sampling.
        timings_ms: milliseconds of each stage, the batch's share where images share a batch.
        pred_score_std: standard deviation of pred_score over the seeds of an adaptation (n - 1); None for one seed or none.
        patch_scores_std: likewise of the patch scores, float32 [h, w].
        score_range: (low, high) of the fixed drawing scale: values of the map at the two ends of the colour
            bar. It depends on the recipe, never on the image.
        names: words that regions are named by, at least two; or none.
        name_scores: float32 [h, w, number of names], each patch's similarity with them; None without names.

    Raises:
        UsageError: a shape or value is not as described.
    """

    image_path: str | None
    image_size: tuple[int, int]
    class_name: str
    pred_score: float
    anomaly_map: FloatArray = field(repr=False)
    patch_scores: FloatArray = field(repr=False)
    threshold: float = DEFAULT_THRESHOLD
    timings_ms: dict[str, float] = field(default_factory=dict, repr=False)
    score_range: tuple[float, float] = (0.0, 1.0)
    pred_score_std: float | None = None
    patch_scores_std: FloatArray | None = field(default=None, repr=False)
    pixel_threshold: float = None  # type: ignore[assignment] # the threshold, see below
    calibrated: bool = False
    probability: float | None = None
    names: tuple[str, ...] = ()
    name_scores: FloatArray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("anomaly_map", "patch_scores"):
            array = getattr(self, name)
            if array.ndim != 2 or array.size == 0 or array.dtype != np.float32:
                raise UsageError(f"{name}: expected float32 (H, W), got {array.dtype} {array.shape}")
            if not (array.min() >= 0.0 and array.max() <= 1.0):  # also false for NaN
                raise UsageError(f"{name}: expected values in [0, 1], got [{array.min()}, {array.max()}]")
        for name in ("pred_score", "threshold", "pixel_threshold"):
            given = getattr(self, name)
            value = float(self.threshold if given is None else given)  # numpy scalars would not go into JSON
            if not 0.0 <= value <= 1.0:
                raise UsageError(f"{name}: expected a value in [0, 1], got {value}")
            object.__setattr__(self, name, value)
        if self.probability is not None and not 0.0 <= self.probability <= 1.0:
            raise UsageError(f"probability: expected a value in [0, 1] or None, got {self.probability}")
        expected = (*self.patch_scores.shape, len(self.names)) if self.names else None
        if (got := None if self.name_scores is None else self.name_scores.shape) != expected:
            raise UsageError(f"name_scores: expected {expected}, a value for each patch and name, got {got}")
        low, high = self.score_range
        if not -np.inf < low < high < np.inf:
            raise UsageError(f"score_range: expected (low, high), finite and low < high, got {self.score_range}")

    @property
    def pred_label(self) -> bool:
        """True for anomalous: pred_score >= threshold."""
        return self.pred_score >= self.threshold

    def mask(self, threshold: float | None = None) -> BoolArray:
        """Pixels of the map at or over the threshold, bool, the map's shape (default: the prediction's own)."""
        return np.asarray(self.anomaly_map >= (self.pixel_threshold if threshold is None else threshold))

    def at(self, threshold: float) -> Prediction:
        """The same with one threshold, for image and pixels, of the caller's choice: not calibrated.

        Raises:
            UsageError: it is not in [0, 1].
        """
        return replace(self, threshold=threshold, pixel_threshold=threshold, calibrated=False)

    def regions(self, threshold: float | None = None, *, min_area: int = 1) -> list[Region]:
        """8-connected regions of the mask, the highest peak first.

        Args:
            threshold: as in `mask`.
            min_area: regions of fewer pixels are left out.
        """
        from scipy import ndimage  # scipy.ndimage takes 0.2 s to import

        mask = self.mask(threshold)
        if (near := bounding_box(mask)) is None:
            return []
        top, left = near[0].start, near[1].start
        anomaly_map = self.anomaly_map[near]
        labels, count = ndimage.label(mask[near], structure=np.ones((3, 3), dtype=int))
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        boxes = ndimage.find_objects(labels)
        found = []
        for i in np.flatnonzero(areas >= min_area):
            box = boxes[i]
            inside = labels[box] == i + 1
            x = left + box[1].start + float(inside.sum(axis=0) @ np.arange(inside.shape[1])) / areas[i]
            y = top + box[0].start + float(inside.sum(axis=1) @ np.arange(inside.shape[0])) / areas[i]
            found.append(
                Region(
                    box=(left + box[1].start, top + box[0].start, left + box[1].stop, top + box[0].stop),
                    area=int(areas[i]),
                    peak=float(anomaly_map[box][inside].max()),
                    centroid=(float(x), float(y)),
                    names=self._named(inside, top + box[0].start, left + box[1].start),
                )
            )
        return sorted(found, key=lambda region: (-region.peak, -region.area))

    def _named(self, inside: BoolArray, top: int, left: int) -> tuple[tuple[str, float], ...]:
        """The best names of a region by the mean over its pixels of what their patches resemble; see `anovl.naming`."""
        if self.name_scores is None:
            return ()
        (height, width), (rows, columns) = self.anomaly_map.shape, self.patch_scores.shape
        y, x = np.nonzero(inside)
        patch = (y + top) * rows // height * columns + (x + left) * columns // width
        pixels = np.bincount(patch, minlength=rows * columns)
        similarity = pixels @ self.name_scores.reshape(rows * columns, -1) / pixels.sum()
        best = np.argsort(-similarity, kind="stable")[:NAMES_TOLD]
        return tuple((self.names[i], float(similarity[i])) for i in best)

    def to_dict(self) -> dict[str, Any]:
        """The row of predictions.jsonl: plain values, no arrays."""
        return {
            "image_path": self.image_path,
            "image_size": list(self.image_size),
            "class_name": self.class_name,
            "pred_score": self.pred_score,
            "pred_score_std": self.pred_score_std,
            "patch_scores_std": None if self.patch_scores_std is None else float(self.patch_scores_std.mean()),
            "pred_label": self.pred_label,
            "threshold": self.threshold,
            "pixel_threshold": self.pixel_threshold,
            "calibrated": self.calibrated,
            "probability": self.probability,
            "map_size": list(self.anomaly_map.shape),
            "regions": [region.to_dict() for region in self.regions()],
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
        }

    def plot(self, image: Any = None) -> Image.Image:
        """The overlay: picture, heat map on the fixed scale, mask contour, colour bar.

        Args:
            image: the picture; by default it is read again from image_path.

        Raises:
            UsageError: no image given and none to read.
            ImageError: the image cannot be read.
        """
        from anovl.data.images import load_image
        from anovl.render.overlay import overlay

        source = self.image_path if image is None else image
        if source is None:
            raise UsageError("this prediction was not made from a file: pass the picture, plot(image) or save(path, image)")
        return overlay(load_image(source), self)

    def save(self, path: str | Path, image: Any = None) -> Path:
        """Write the overlay to an image file, whole or not at all; returns the path.

        Raises:
            OutputError: the file cannot be written.
        """
        from anovl.render.writers import save_image

        return save_image(self.plot(image), Path(path))


def bounding_box(mask: BoolArray) -> tuple[slice, slice] | None:
    """Rows and columns of the smallest box around a mask [H, W]; None for an empty one."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if rows.size == 0:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
