"""The rows of a run as a table beside them: CSV or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

TableFormat = Literal["jsonl", "csv", "parquet"]
COLUMNS = (
    "image_path",
    "image_size",
    "class_name",
    "pred_score",
    "pred_score_std",
    "patch_scores_std",
    "pred_label",
    "threshold",
    "pixel_threshold",
    "calibrated",
    "probability",
    "map_size",
    "regions",
    "timings_ms",
)
_NESTED = ("image_size", "map_size", "regions", "timings_ms")  # columns that a CSV keeps as JSON text


def _write_csv(rows: Iterator[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: json.dumps(value) if key in _NESTED else value for key, value in row.items()})


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    region = pa.struct(
        [
            ("box", pa.list_(pa.int32())),
            ("area", pa.int64()),
            ("peak", pa.float64()),
            ("centroid", pa.list_(pa.float64())),
            ("name", pa.string()),
            ("margin", pa.float64()),
            ("names", pa.list_(pa.struct([("name", pa.string()), ("similarity", pa.float64())]))),
        ]
    )
    types = {
        "image_size": pa.list_(pa.int32()),
        "pred_score": pa.float64(),
        "pred_score_std": pa.float64(),
        "patch_scores_std": pa.float64(),
        "pred_label": pa.bool_(),
        "threshold": pa.float64(),
        "pixel_threshold": pa.float64(),
        "calibrated": pa.bool_(),
        "probability": pa.float64(),
        "map_size": pa.list_(pa.int32()),
        "regions": pa.list_(region),
        "timings_ms": pa.map_(pa.string(), pa.float64()),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    with pq.ParquetWriter(str(path), schema) as writer:
        block: list[dict[str, Any]] = []
        for row in rows:
            name = row["image_path"].encode("utf-8", "backslashreplace").decode()  # file names may be no UTF-8
            block.append({**row, "image_path": name, "timings_ms": list(row["timings_ms"].items())})
            if len(block) == 1000:
                writer.write_table(pa.Table.from_pylist(block, schema=schema))
                block = []
        writer.write_table(pa.Table.from_pylist(block, schema=schema))


TABLES = {"csv": _write_csv, "parquet": _write_parquet}
