"""Lists, addresses and output folders, in this process."""

import io
import json
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl import AnoVL, load_backbone
from anovl.addresses import file_system, path_of
from anovl.cli import app
from anovl.cluster.output import Output, left, shards_of
from anovl.cluster.shards import on_tables, pack, row, table_of, unpack
from anovl.cluster.sources import Remote, items_of, reads
from anovl.cluster.stages import Decode, Score, Write
from anovl.cluster.storage import Folder
from anovl.data.datasets import load
from anovl.data.images import ImageLimits, load_sized_image
from anovl.data.sources import SourceItem
from anovl.engine.local import Stacked
from anovl.engine.pipeline import Decoded, Outcome
from anovl.errors import ImageError, OutputError, UsageError
from anovl.results import Prediction


@pytest.fixture
def memory():
    """An address in memory, gone after the test."""
    system = fsspec.filesystem("memory")
    system.mkdirs("/plant", exist_ok=True)
    yield "memory://plant"
    system.rm("/plant", recursive=True)


def png(side=8) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (side, side)).save(stream, "PNG")
    return stream.getvalue()


def read(image):
    (one,) = reads([image], max_bytes=2**20)
    return one()


def test_an_address_is_listed_as_a_folder(memory, pictures):
    fsspec.filesystem("memory").put(f"{pictures}/", "/plant/", recursive=True)
    fsspec.filesystem("memory").pipe("/plant/.hidden/x.png", png())
    found, expected = list(items_of(memory, exclude=[])), list(items_of(str(pictures), exclude=[]))
    assert sorted((item.image_path, item.stem) for item in found) == sorted((item.image_path, item.stem) for item in expected)
    assert read(found[0].image) == (pictures / found[0].image_path).read_bytes()
    assert [item.image_path for item in items_of(f"{memory}/*.png", exclude=[])] == ["a.png"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_list_names_images(memory, suffix, tmp_path):
    names = ["a/x.png", "memory://other/y.png"]
    if suffix == "parquet":
        pq = pytest.importorskip("pyarrow.parquet")
        import pyarrow as pa

        pq.write_table(pa.table({"image_path": names}), tmp_path / "list.parquet")
    elif suffix == "csv":
        (tmp_path / "list.csv").write_text("\n".join(["image_path", *names]))
    else:
        (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"image_path": name}) for name in names))
    fsspec.filesystem("memory").put(str(tmp_path / f"list.{suffix}"), f"/plant/list.{suffix}")
    local, remote = ([item.image for item in items_of(f"{where}/list.{suffix}", exclude=[])] for where in (tmp_path, memory))
    assert local == [tmp_path / "a/x.png", Remote("memory://other/y.png")]
    assert remote == [Remote("memory://plant/a/x.png"), Remote("memory://other/y.png")]


def test_a_parquet_file_holds_images(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    pq.write_table(pa.table({"bytes": [png(8), png(9), png(10), None]}), tmp_path / "in.parquet", row_group_size=2)
    items = list(items_of(str(tmp_path / "in.parquet"), exclude=[]))
    assert [read(item.image) for item in items[:3]] == [png(8), png(9), png(10)]
    with pytest.raises(ImageError, match="expected bytes"):
        read(items[3].image)
    (shard,), _ = shards_of(items[3:], 1)
    (broken,) = unpack(Decode([Job()])(shard)["data"])
    assert str(broken.error).startswith(f"{tmp_path / 'in.parquet'}, image-000003: ")


def test_sources_that_are_none(memory, tmp_path):
    (tmp_path / "list.csv").write_text("name\na.png")
    for source, message in (
        ("nonsense://x", "unknown scheme 'nonsense'"),
        (f"{memory}/nothing", "no such file, folder or bucket"),
        (str(tmp_path / "list.csv"), "row 1: expected image_path"),
    ):
        with pytest.raises(UsageError, match=message):
            list(items_of(source, exclude=[]))


class Job:
    """A model that scores by nothing."""

    def __init__(self, max_bytes=2**20):
        self.limits = ImageLimits(max_bytes=max_bytes)

    def load(self, image):
        return load_sized_image(image, limits=self.limits)

    def preprocess(self, picture):
        return np.asarray(picture)

    def finish(self, item, size, scores, timings):
        return Prediction(None, size, "nut", scores, np.full(size, scores, np.float32), np.full((1, 1), scores, np.float32))


def test_a_table_holds_what_a_shard_does_and_keeps_nothing_else():
    values = {
        "pixels": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        "none": np.zeros((0, 3)),
        "turned": np.eye(3).T,
        "word": "x",
    }
    kept = weakref.ref(values["pixels"])
    table = table_of(row(7, [values], task=2))
    del values
    assert kept() is None  # else a worker would grow by each shard
    assert (table["shard"].to_pylist(), table["task"].to_pylist()) == ([7], [2])
    (found,) = unpack(table["data"])
    assert np.array_equal(found["pixels"], np.arange(24).reshape(2, 4, 3))
    assert found["none"].shape == (0, 3)
    assert np.array_equal(found["turned"], np.eye(3))
    assert found["word"] == "x"
    assert unpack(table["pictures"]) == ()


def test_stages_without_a_model_need_no_torch(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    job = AnoVL(load_backbone("mini", device="cpu")).job("nut", names=("scratch", "hole"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    (shard,), _ = shards_of(items_of(str(tmp_path), exclude=[]), 8)
    processor = job.without_model()
    decode = Decode([processor], draws=True)
    write = Write(processor, Folder(str(tmp_path / "out")), ["overlay"], "npy")
    table = table_of(shard)
    scored = on_tables(Score(lambda _: Stacked(job), 8))(on_tables(decode)(table))
    (tmp_path / "sent").write_bytes(pickle.dumps((decode, table, write, scored)))
    script = (
        "import pickle, sys; from pathlib import Path; from anovl.cluster.shards import on_tables\n"
        f"decode, table, write, scored = pickle.loads(Path({str(tmp_path / 'sent')!r}).read_bytes())\n"
        "on_tables(decode)(table); print(on_tables(write)(scored)['summary'][0].as_py()); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    summary, torch_there = done.stdout.splitlines()
    assert json.loads(summary)["scored"] == 1
    assert torch_there == "False"
    (path,) = (tmp_path / "out" / "predictions").iterdir()
    (found,) = pq.read_table(path).to_pylist()
    (overlay,) = (tmp_path / "out" / "overlay").iterdir()
    assert Image.open(overlay).width > 80  # the picture beside its map
    assert found["pred_score"] == job.detector.predict(tmp_path / "a.png", "nut").pred_score


def test_stages_write_a_shard_and_its_mark_and_a_run_goes_on(memory):
    fsspec.filesystem("memory").pipe({"/plant/in/a.png": png(), "/plant/in/b.png": b"x"})
    rows, images = shards_of(items_of(f"{memory}/in", exclude=[]), 2)
    decoded = Decode([Job()], draws=True)(rows[0])
    scored = [slot if isinstance(slot, Outcome) else (slot, 0.75) for slot in unpack(decoded["data"])]
    folder = Folder(f"{memory}/out")
    written = Write(Job(), folder, ["overlay", "map", "heatmap", "mask"], "npy")(decoded | {"data": pack(scored)})
    summary = json.loads(written["summary"])
    assert summary["scored"] == summary["anomalous"] == 1
    assert summary["errors"][0]["image_path"] == "b.png"
    assert {name: set(folder.read_all(name)) for name in ("overlay", "map", "heatmap", "mask", "predictions", "done")} == {
        **{kind: {"a.png"} for kind in ("overlay", "heatmap", "mask")},
        "map": {"a.npy"},
        "predictions": {"part-000000.parquet"},
        "done": {"part-000000.json"},
    }
    output = Output(folder)
    assert output.check({"images": images}, resume=False) == {}
    folder.write_json("run.json", {"settings": {"images": images}})
    assert output.check({"images": images}, resume=True) == {}  # one failed: the shard is done again
    assert output.finish({}, [summary]) == {"scored": 1, "anomalous": 1, "failed": 1}
    assert b"b.png" in folder.read("errors.jsonl")
    fsspec.filesystem("memory").pipe("/plant/in/b.png", png())
    mended = Decode([Job()])(rows[0])
    summary = json.loads(Write(Job(), folder, [], "npy")(row(0, [(slot, 0.75) for slot in unpack(mended["data"])]))["summary"])
    folder.write_json("run.json", {"settings": {"images": images}})
    done = output.check({"images": images}, resume=True)
    assert done == {"part-000000": summary}
    assert left(rows, done) == []
    with pytest.raises(UsageError, match="already holds a run"):
        output.check({"images": images}, resume=False)
    with pytest.raises(UsageError, match=r"images.count: was 2, is 3"):
        output.check({"images": images | {"count": 3}}, resume=True)
    assert output.finish({}, done.values()) == {"scored": 2, "anomalous": 2, "failed": 0}
    assert folder.read("errors.jsonl") is None


def test_a_picture_of_a_bucket_is_one_request_of_sixteen(bucket):
    names = [f"{number:02}.png" for number in range(32)]
    bucket.files.pipe({f"plant/in/{name}": png(8 + number) for number, name in enumerate(names)})
    (shard,), _ = shards_of(items_of("s3://plant/in", exclude=[]), 64)
    bucket.clear(together=16)
    slots = unpack(Decode([Job()])(shard)["data"])
    assert [slot.size[0] for slot in slots] == list(range(8, 40))
    assert all(np.array_equal(slot.pixels, Job().preprocess(Image.open(io.BytesIO(png(slot.size[0]))))) for slot in slots)
    assert sorted(bucket.asked) == [("GET", f"/plant/in/{name}") for name in names]
    assert bucket.most == 16


def written_to(folder: str, pictures: int):
    """A shard of as many pictures, written with their overlays."""
    slots = [(Decoded(SourceItem(None, None, f"{number:02}"), None, (8, 8), None, {}), 0.75) for number in range(pictures)]
    shown = [np.zeros((8, 8, 3), np.uint8)] * pictures
    return Write(Job(), Folder(folder), ["overlay"], "npy")(row(0, slots, pictures=shown))


def test_sixteen_overlays_are_written_to_a_bucket_at_once_and_the_mark_last(bucket):
    bucket.clear(together=16)
    assert json.loads(written_to("s3://plant/out", 32)["summary"])["scored"] == 32
    wrote = [path for method, path in bucket.asked if method == "PUT"]
    assert sorted(wrote[:-1]) == [
        *(f"/plant/out/overlay/{n:02}.png" for n in range(32)),
        "/plant/out/predictions/part-000000.parquet",
    ]
    assert wrote[-1] == "/plant/out/done/part-000000.json"
    assert bucket.most == 16


def test_a_picture_that_a_bucket_refuses_leaves_the_shard_without_its_mark(memory, monkeypatch):
    system = type(fsspec.filesystem("memory"))
    pipe = system.pipe_file

    def refuse(self, path, data):
        if path.endswith("overlay/20.png"):
            raise PermissionError("quota")
        pipe(self, path, data)

    monkeypatch.setattr(system, "pipe_file", refuse)
    with pytest.raises(OutputError, match=r"out/overlay/20.png: cannot be reached \(quota\)"):
        written_to(f"{memory}/out", 32)
    assert Folder(f"{memory}/out").read_all("done") == {}


def test_a_picture_of_a_bucket_that_cannot_be_read_fails_alone(bucket):
    good, large = png(8), png(8) + bytes(500)
    bucket.files.pipe({"plant/in/a.png": good, "plant/in/b.png": b"", "plant/in/c.png": large, "plant/in/d.png": good})
    bucket.files.pipe({"plant/in/e.png": b"no picture", "plant/in/f.png": good})
    (shard,), _ = shards_of(items_of("s3://plant/in", exclude=[]), 64)
    bucket.files.rm("plant/in/d.png")
    bucket.clear()
    slots = unpack(Decode([Job(max_bytes=200)], max_bytes=200)(shard)["data"])
    reasons = [slot.error.reason if isinstance(slot, Outcome) else "" for slot in slots]
    expected = ["", "empty", "over the limit of 200 bytes", "no such file", "known format", ""]
    for reason, told in zip(reasons, expected, strict=True):
        assert told in reason
        assert bool(told) == bool(reason)
    assert [slot.error.path for slot in slots if isinstance(slot, Outcome)] == [f"s3://plant/in/{name}.png" for name in "bcde"]
    assert [method for method, _ in bucket.asked] == ["GET"] * 6


def test_of_a_masked_picture_of_a_bucket_the_check_reads_the_header(bucket):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)  # of which nothing can be packed
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    lid = "plant/set [a]/lid"
    bucket.files.pipe(
        {f"{lid}/{name}.png": stream.getvalue() for name in ("test/good/0", "test/bad/0", "ground_truth/bad/0_mask")}
    )
    bucket.clear()
    dataset = load("folder", "s3://plant/set [a]")
    assert [sample.key for sample in dataset.categories[0].test] == ["lid/test/bad/0.png", "lid/test/good/0.png"]
    ends = [int(each.partition("-")[2]) for each in bucket.ranges if each]
    assert len(ends) == 2
    assert max(ends) < 2**17 < len(stream.getvalue())


def test_rows_of_a_manifest_in_a_bucket_are_looked_up_sixteen_at_once(bucket):
    names = [f"{number:02}.png" for number in range(32)]
    bucket.files.pipe({f"plant/{name}": png() for name in names[:-1]})
    bucket.files.pipe("plant/list.csv", "\n".join(["image_path", *names]).encode())
    bucket.clear(together=16)
    with pytest.raises(UsageError, match=r"1 problem\n- list.csv, line 33: no such file: 31.png"):
        load("manifest", "s3://plant/list.csv")
    assert bucket.most == 16


def test_paths_and_requests_share_a_file_system():
    pytest.importorskip("s3fs")
    assert path_of("s3://plant/a.png").fs is file_system("s3://plant/b.png")[0]


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        Folder(str(tmp_path / "file")).write("x/y", b"")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "rya", "-o", "x"], "did you mean 'ray'"),
        (["--engine", "ray"], "needs an output folder"),
        (["--engine", "ray", "-o", "x", "--actors", "3..2"], "expected N or MIN..MAX"),
        (["--address", "auto", "-o", "x"], "needs --engine ray"),
        (["--engine", "ray", "-o", "x", "--format", "csv"], "writes Parquet"),
    ],
)
def test_options_that_are_refused(options, message, pictures):
    result = CliRunner().invoke(app, ["predict", str(pictures), "--class-name", "nut", "--model", "mini", *options])
    assert result.exit_code == 2
    assert message in result.output


def test_memory_is_no_place_for_a_cluster(pictures):
    pytest.importorskip("ray.data")
    line = ["predict", str(pictures), "--class-name", "nut", "--model", "mini", "--engine", "ray"]
    result = CliRunner().invoke(app, [*line, "-o", "memory://out"])
    assert result.exit_code == 2
    assert "lives in one process" in result.output
    assert not Path("memory:").exists()


def test_memory_is_no_place_for_pictures_of_a_cluster(memory, tmp_path):
    pytest.importorskip("ray.data")
    fsspec.filesystem("memory").pipe("/plant/a.png", png())
    (tmp_path / "list.csv").write_text(f"image_path,label\n{memory}/a.png,0\n")
    line = ["evaluate", "manifest", str(tmp_path / "list.csv"), "--model", "mini", "--engine", "ray", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 2
    assert f"{memory}/a.png: lives in one process" in result.output


def test_the_extra_is_missing(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = ["predict", str(pictures), "--class-name", "nut", "--model", "mini", "--engine", "ray", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 5
    assert "pip install 'anovl[ray]'" in result.output
