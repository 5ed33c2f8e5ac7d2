"""The paper's tables and figures, computed for the data at hand: ours | paper | difference."""

from __future__ import annotations

from anovl.reproduction.full_shot import FullShot
from anovl.reproduction.paper import TABLES
from anovl.reproduction.tables import Ours, Result, Source, compute_table, folder_name

NAMES = (*TABLES, "fig4", "fig5", "fig6")

__all__ = ["NAMES", "TABLES", "FullShot", "Ours", "Result", "Source", "compute_table", "folder_name"]
