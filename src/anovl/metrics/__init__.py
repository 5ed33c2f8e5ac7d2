"""How good scores and maps are, given the truth: numbers in, numbers out, no model."""

from anovl.metrics.curves import auroc, f1_max
from anovl.metrics.regions import pro

__all__ = ["auroc", "f1_max", "pro"]
