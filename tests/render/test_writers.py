"""Output folders that survive a kill, tables that equal their rows, and JSON lines on a stream."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anovl.errors import OutputError, UsageError
from anovl.render.writers import FolderWriter, StreamWriter, read_rows, row_of, save_image, save_map
from anovl.results import Prediction

SETTINGS = {"anovl": "0.1", "settings": {"model": "tiny", "threshold": 0.5, "sizes": (1, 2)}}


def make(score: float = 0.75, shape=(8, 12), **changes) -> Prediction:
    anomaly_map = np.zeros(shape, np.float32)
    anomaly_map[1:3, 1:3] = 0.7
    anomaly_map[1, 3] = 0.9  # a region of five pixels: its centroid is no binary fraction
    fields = {"image_path": "/data/a.png", "image_size": shape, "class_name": "nut", "pred_score": score}
    fields |= {"anomaly_map": anomaly_map, "patch_scores": np.zeros((1, 1), np.float32), "timings_ms": {"encode": 1.5}}
    return Prediction(**{**fields, **changes})


def rows(folder: Path) -> list[dict]:
    return list(read_rows(folder / "predictions.jsonl"))


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(folder: Path, *names: str, settings=SETTINGS, **options) -> None:
    with FolderWriter(folder, settings, **options) as writer:
        for name in names:
            writer.write(f"{name}.png", make(), stem=name, picture=Image.new("RGB", (12, 8)))


def killed(folder: Path, *names: str, **options) -> None:
    with pytest.raises(KeyboardInterrupt), FolderWriter(folder, SETTINGS, **options) as writer:  # noqa: PT012
        for name in names:
            writer.write(f"{name}.png", make(), stem=name, picture=Image.new("RGB", (12, 8)))
        raise KeyboardInterrupt


def done(folder: Path, settings=SETTINGS) -> dict[str, bool]:
    """What a resumed run finds done."""
    with FolderWriter(folder, settings, resume=True) as writer:
        return writer.done


def test_folder(tmp_path):
    run(tmp_path / "out", "a", "deep/b", save=("overlay", "heatmap", "mask", "map"))
    kinds = {"overlay": "png", "heatmap": "png", "mask": "png", "map": "npy"}
    pictures = [f"{kind}/{name}.{suffix}" for kind, suffix in kinds.items() for name in ("a", "deep/b")]
    assert listing(tmp_path / "out") == sorted([*pictures, "predictions.jsonl", "run.json"])
    assert rows(tmp_path / "out") == [row_of(name, make()) for name in ("a.png", "deep/b.png")]
    saved = json.loads((tmp_path / "out/run.json").read_text())
    assert saved["status"] == "done"
    assert saved["settings"] == {"model": "tiny", "threshold": 0.5, "sizes": [1, 2]}
    with Image.open(tmp_path / "out/mask/a.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, make().mask())
    with Image.open(tmp_path / "out/overlay/deep/b.png") as drawn:
        assert drawn.size == make().plot(Image.new("RGB", (12, 8))).size


def test_run_without_images_or_pictures(tmp_path):
    run(tmp_path, save=())
    assert listing(tmp_path) == ["predictions.jsonl", "run.json"]
    assert rows(tmp_path) == []


def test_image_without_path_goes_by_its_stem(tmp_path):
    with FolderWriter(tmp_path, SETTINGS, save=()) as writer:
        writer.write(None, make(image_path=None), stem="image-000000")
    assert rows(tmp_path)[0]["image_path"] == "image-000000"


def test_callers_settings_are_left_alone(tmp_path):
    settings = {"settings": {"a": 1}}
    run(tmp_path, settings=settings)
    assert settings == {"settings": {"a": 1}}


def test_writer_needs_a_with_statement(tmp_path):
    with pytest.raises(UsageError, match="with"):
        FolderWriter(tmp_path, SETTINGS, save=()).write("a", make(), stem="a")


def test_unknown_kind_names_the_valid_ones(tmp_path):
    with pytest.raises(UsageError, match="'heatmap'"):
        FolderWriter(tmp_path / "out", SETTINGS, save=("heat_map",))
    assert not (tmp_path / "out").exists()


# Going on


def test_exception_keeps_the_rows_for_resume(tmp_path):
    killed(tmp_path, "a", "b")
    assert "predictions.jsonl" not in listing(tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    with FolderWriter(tmp_path, SETTINGS, resume=True) as writer:
        assert set(writer.done) == {"a.png", "b.png"}
        writer.write("c.png", make(0.25), stem="c")
    assert [row["image_path"] for row in rows(tmp_path)] == ["a.png", "b.png", "c.png"]
    assert not [name for name in listing(tmp_path) if ".anovl-" in name]


def test_finished_run_goes_on(tmp_path):
    run(tmp_path, "a", table="csv")
    run(tmp_path, "b", resume=True, table="csv")
    assert [row["image_path"] for row in rows(tmp_path)] == ["a.png", "b.png"]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 3


def test_resume_in_a_new_folder(tmp_path):
    with FolderWriter(tmp_path / "new", SETTINGS, resume=True) as writer:
        assert writer.done == {}


@pytest.mark.parametrize("torn", ['{"image_path": "c.p', '{"image_path": "c.png"}', "{" * 200_000])
def test_torn_last_line_is_cut(tmp_path, torn):
    killed(tmp_path, "a", "b")
    with (tmp_path / ".anovl-predictions.jsonl").open("a") as stream:
        stream.write(torn)
    with FolderWriter(tmp_path, SETTINGS, resume=True, save=()) as writer:
        assert set(writer.done) == {"a.png", "b.png"}
        writer.write("c.png", make(), stem="c")
    assert [row["image_path"] for row in rows(tmp_path)] == ["a.png", "b.png", "c.png"]


def test_torn_only_line_is_cut(tmp_path):
    killed(tmp_path)
    (tmp_path / ".anovl-predictions.jsonl").write_text('{"image_pa')
    assert done(tmp_path) == {}


@pytest.mark.parametrize("line", ["not json\n", "7\n", '{"other": 1}\n'])
def test_rows_that_are_not_ours(tmp_path, line):
    (tmp_path / "predictions.jsonl").write_text(line)
    with pytest.raises(OutputError, match="line 1"):
        run(tmp_path, resume=True)


def test_other_settings_are_refused(tmp_path):
    run(tmp_path, "a")
    other = {"settings": {**SETTINGS["settings"], "threshold": 0.25, "extra": 1}}
    with pytest.raises(UsageError, match=r"extra: was None, is 1; threshold: was 0\.5, is 0\.25"):
        run(tmp_path, settings=other, resume=True)
    assert [row["image_path"] for row in rows(tmp_path)] == ["a.png"]
    run(tmp_path, "b", settings={**SETTINGS, "anovl": "0.2"}, resume=True)  # what is not a setting may differ


@pytest.mark.parametrize("content", ["", "not json", "[]", "{}", '{"settings": []}', '{"settings": null}'])
def test_foreign_run_json(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(OutputError, match=r"run\.json"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("finish", [run, killed])
def test_existing_run_is_not_overwritten(tmp_path, finish):
    finish(tmp_path, "a")
    before = {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)}
    with pytest.raises(UsageError, match="--resume"):
        run(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == before


# Errors


def test_errors_file_only_on_failures(tmp_path):
    with FolderWriter(tmp_path, SETTINGS, save=()) as writer:
        writer.write_error("bad.png", "is odd")
        writer.write("a.png", make(), stem="a")
    assert writer.failed == 1
    assert list(read_rows(tmp_path / "errors.jsonl")) == [{"image_path": "bad.png", "error": "is odd"}]
    run(tmp_path, "bad", resume=True, save=())
    assert listing(tmp_path) == ["predictions.jsonl", "run.json"]


# Tables


def test_csv_equals_the_rows(tmp_path):
    run(tmp_path, "a", 'deep/b, "quoted"\nü', save=(), table="csv")
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    nested = ("image_size", "map_size", "regions", "timings_ms")
    for row, entry in zip(rows(tmp_path), table, strict=True):
        assert list(entry) == list(row)
        plain = {key: "" if value is None else str(value) for key, value in row.items()}
        assert entry == plain | {key: json.dumps(row[key]) for key in nested}


@pytest.mark.parametrize("count", [0, 2, 1001])
def test_parquet_equals_the_rows(tmp_path, count):
    pq = pytest.importorskip("pyarrow.parquet")
    run(tmp_path, *(f"{index}" for index in range(count)), save=(), table="parquet")
    table = pq.read_table(tmp_path / "predictions.parquet").to_pylist(maps_as_pydicts="strict")
    assert len(table) == count
    assert table == rows(tmp_path)
    assert listing(tmp_path) == ["predictions.jsonl", "predictions.parquet", "run.json"]


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_tables_take_file_names_that_are_not_utf8(tmp_path, table):
    name = os.fsdecode(b"caf\xe9.png")
    with FolderWriter(tmp_path, SETTINGS, save=(), table=table) as writer:
        writer.write(name, make(), stem="a")
    assert rows(tmp_path)[0]["image_path"] == name
    assert (tmp_path / f"predictions.{table}").stat().st_size > 0


# Maps and pictures


def test_map_npy(tmp_path):
    run(tmp_path, "a", save=("map",))
    saved = np.load(tmp_path / "map/a.npy")
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, make().anomaly_map)


def test_map_png16(tmp_path):
    run(tmp_path, "a", save=("map",), map_format="png16")
    with Image.open(tmp_path / "map/a.png") as picture:
        saved = np.asarray(picture)
    assert saved.dtype == np.uint16
    np.testing.assert_allclose(saved / 65535, make().anomaly_map, atol=0.51 / 65535)


def test_png16_keeps_every_level(tmp_path):
    levels = (np.arange(65536, dtype=np.float32) / 65535).reshape(256, 256)
    save_map(levels, tmp_path / "m.png", "png16")
    with Image.open(tmp_path / "m.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture).ravel(), np.arange(65536))


def test_save_image_of_a_mode_the_format_cannot_hold(tmp_path):
    with pytest.raises(OutputError, match=r"a\.jpg"):
        save_image(Image.new("RGBA", (2, 2)), tmp_path / "a.jpg")
    assert listing(tmp_path) == []


# Folders and disks that refuse


def test_file_in_the_way(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="out"):
        run(tmp_path / "out")
    with pytest.raises(OutputError, match="out"):
        run(tmp_path / "out/deeper")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match=r"out.*[Pp]ermission"):
            run(tmp_path / "out")
    finally:
        tmp_path.chmod(0o755)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that refuses")
def test_file_system_that_refuses():
    with pytest.raises(OutputError, match="/proc/anovl"):
        run(Path("/proc/anovl"))


def test_folder_that_cannot_be_written_any_more(tmp_path):
    (tmp_path / "overlay").write_text("in the way")
    with pytest.raises(OutputError, match="overlay"):
        run(tmp_path, "a")
    (tmp_path / "overlay").unlink()
    assert done(tmp_path) == {}


@pytest.mark.parametrize("fail", [False, True])
def test_folder_in_the_way_of_the_errors(tmp_path, fail):
    (tmp_path / "errors.jsonl").mkdir()
    with pytest.raises(OutputError, match="errors"), FolderWriter(tmp_path, SETTINGS, save=()) as writer:  # noqa: PT012
        writer.write("a.png", make(), stem="a")
        if fail:
            writer.write_error("b.png", "is odd")
    (tmp_path / "errors.jsonl").rmdir()
    assert done(tmp_path) == {"a.png": True}


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from anovl.errors import OutputError
from anovl.render.writers import FolderWriter
from anovl.results import Prediction

folder, kind = Path(sys.argv[1]), sys.argv[2]

def make(side):
    zeros = np.zeros((side, side), np.float32)
    return Prediction("x.png", (side, side), "nut", 0.5, zeros, zeros)

try:
    with FolderWriter(folder, {"settings": {}}, save=("map",) if kind == "picture" else (), table="csv") as writer:
        writer.write("a.png", make(8), stem="a")
        taken = (folder / ".anovl-predictions.jsonl").stat().st_size
        limit = {"picture": 2000, "row": taken + 20, "table": 100}[kind]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        if kind != "table":
            writer.write("b.png", make(200), stem="b")
except OutputError as exc:
    print(exc)
    sys.exit(9)
"""


@pytest.mark.parametrize(("kind", "named"), [("picture", "b.npy"), ("row", "predictions.jsonl"), ("table", "predictions.csv")])
def test_full_disk(tmp_path, kind, named):
    """The limit on file size gives the error of a full disk, in the middle of a file."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), kind], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (9, "")
    assert named in done.stdout
    left = {".anovl-predictions.jsonl", "run.json"} | ({"map/a.npy"} if kind == "picture" else set())
    assert {name for name in listing(tmp_path) if "errors" not in name} == left
    if kind == "picture":
        np.testing.assert_array_equal(np.load(tmp_path / "map/a.npy"), np.zeros((8, 8)))
    with FolderWriter(tmp_path, {"settings": {}}, save=(), resume=True) as writer:
        assert set(writer.done) == {"a.png"}
        writer.write("b.png", make(), stem="b")
    assert [row["image_path"] for row in rows(tmp_path)] == ["a.png", "b.png"]


# Streams


def test_stream_writer():
    stream = io.StringIO()
    with StreamWriter(stream) as writer:
        assert not writer.done
        writer.write("a.png", make(), stem="a", picture=None)
        assert json.loads(stream.getvalue()) == row_of("a.png", make())  # at once
        writer.write(None, make(0.25), stem="b")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["image_path"], second["image_path"], second["pred_score"]) == ("a.png", None, 0.25)
    assert not stream.closed
