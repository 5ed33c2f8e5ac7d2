"""The output folder of a prediction run on a cluster: which shards it holds, and what the whole run did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from anovl.cluster.shards import Row, row
from anovl.cluster.stages import DONE, part
from anovl.cluster.storage import Folder
from anovl.data.sources import SourceItem
from anovl.errors import UsageError
from anovl.files import ERRORS, RUN, check_same, parse_run

Summary = dict[str, Any]  # of a shard: how many were "scored" and "anomalous", and the "errors"


def shards_of(items: Iterable[SourceItem], size: int) -> tuple[list[Row], dict[str, Any]]:
    """Items in shards, and what run.json records of them: a resumed run must have the same."""
    source = iter(items)
    digest, count = hashlib.sha256(), 0
    rows: list[Row] = []
    while shard := list(islice(source, size)):
        for item in shard:
            digest.update(item.key.encode("utf-8", "surrogateescape") + b"\0")
        count += len(shard)
        rows.append(row(len(rows), shard))
    return rows, {"count": count, "sha256": digest.hexdigest(), "shard_size": size}


@dataclass(frozen=True)
class Output:
    """run.json, predictions/, done/, errors.jsonl, a folder a kind of picture."""

    folder: Folder

    def check(self, settings: Mapping[str, Any], *, resume: bool) -> dict[str, Summary]:
        """Shards that an earlier run did without an error, by name, which only `resume` may go on with. Changes nothing.

        Raises:
            UsageError: a run is there and `resume` is off, or it had other settings.
            OutputError: what is there is no run, or cannot be read.
        """
        text = self.folder.read(RUN)
        if text is None:
            return {}
        url = self.folder.url
        if not resume:
            raise UsageError(f"{url} already holds a run ({RUN}): go on with it by --resume, or name another folder")
        check_same(url, parse_run(text, f"{url}/{RUN}")["settings"], settings)
        marks = {name.removesuffix(".json"): json.loads(mark) for name, mark in self.folder.read_all(DONE).items()}
        return {name: summary for name, summary in marks.items() if not summary["errors"]}

    def finish(self, record: Mapping[str, Any], summaries: Iterable[Summary]) -> dict[str, int]:
        """Write errors.jsonl and run.json; how many were scored, anomalous, failed."""
        counts = {"scored": 0, "anomalous": 0, "failed": 0}
        lines: list[str] = []
        for one in summaries:
            lines += (json.dumps(error) + "\n" for error in one["errors"])
            counts["scored"] += one["scored"]
            counts["anomalous"] += one["anomalous"]
        counts["failed"] = len(lines)
        if lines:
            self.folder.write(ERRORS, "".join(lines).encode())
        else:
            self.folder.remove(ERRORS)  # of the run before
        self.folder.write_json(RUN, {**record, "status": "done", "counts": counts})
        return counts


def left(rows: Iterable[Row], done: Mapping[str, Summary]) -> list[Row]:
    """Shards that are not done."""
    return [one for one in rows if part(one["shard"]) not in done]
