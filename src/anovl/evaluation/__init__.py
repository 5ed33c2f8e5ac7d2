"""Data set x method x seeds -> figures, tables and one page; what a kill interrupts goes on where it was."""

from anovl.evaluation.measuring import FIGURES, Figures, Measured, Resolution
from anovl.evaluation.running import Cell, Engine, Evaluation, Local, check_resolution, evaluate, limited
from anovl.evaluation.scoring import Scored, Variant

__all__ = [
    "FIGURES",
    "Cell",
    "Engine",
    "Evaluation",
    "Figures",
    "Local",
    "Measured",
    "Resolution",
    "Scored",
    "Variant",
    "check_resolution",
    "evaluate",
    "limited",
]
