"""How good scores and maps are, given the truth: numbers in, numbers out, no model."""

from anovl.metrics.curves import auroc, average_precision, f1_max
from anovl.metrics.images import ImageFigures, ImageMetrics, MapFigures, map_figures
from anovl.metrics.outline import Curve
from anovl.metrics.pixels import PixelFigures, PixelMetrics, pro

__all__ = [
    "Curve",
    "ImageFigures",
    "ImageMetrics",
    "MapFigures",
    "PixelFigures",
    "PixelMetrics",
    "auroc",
    "average_precision",
    "f1_max",
    "map_figures",
    "pro",
]
