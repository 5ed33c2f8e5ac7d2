"""A drawn world of parts and surfaces with exact defect masks: endless labelled pictures from a seed."""

from anovl.data.synthetic.scene import CLASSES, MAX_SIZE, MIN_SIZE, ClassInfo, Sample, draw

__all__ = ["CLASSES", "MAX_SIZE", "MIN_SIZE", "ClassInfo", "Sample", "draw"]
