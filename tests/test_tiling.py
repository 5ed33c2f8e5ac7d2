"""Tiles, scales and the crop to the foreground: where parts lie, how they are joined, and what the detector makes of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.engine.test_local import MeanJob, grey

import anovl
from anovl import AnoVL, Variant
from anovl.backbones import Backbone
from anovl.blending import blend, join
from anovl.cluster.shards import row as packed
from anovl.cluster.shards import unpack
from anovl.cluster.stages import Decode, Score
from anovl.config import Recipe, Tiling
from anovl.data.foreground import foreground_box
from anovl.data.sources import SourceItem
from anovl.data.synthetic import draw
from anovl.engine.local import run, work_of
from anovl.errors import OutOfMemoryError, UsageError
from anovl.results import ImageScores
from anovl.tiling import Scale, lay_out


@pytest.fixture(scope="module")
def detector(tiny_clip):
    import open_clip

    return AnoVL(Backbone.from_clip(tiny_clip(), open_clip.get_tokenizer("ViT-B-32"), name="tiny", weights_id="random"))


def drawn(seed=0, size=(130, 300)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def disc(size=(200, 300), centre=(80, 190), radius=40, noise=4):
    rows, columns = np.ogrid[: size[0], : size[1]]
    inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
    pixels = np.where(inside[..., None], (150, 90, 60), (20, 22, 30)) + np.random.default_rng(0).integers(
        -noise, noise + 1, (*size, 3)
    )
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


layouts = {
    "size": st.tuples(st.integers(1, 900), st.integers(1, 900)),
    "sides": st.lists(st.integers(32, 400), max_size=2, unique=True),
    "overlap": st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75]),
    "crop": st.sampled_from(["none", "foreground"]),
    "tile": st.sampled_from([(3, 3), (4, 4), (3, 5), (15, 15)]),
}


@given(**layouts)
@settings(max_examples=100, deadline=None)
def test_tiles_cover_what_is_looked_at(size, sides, overlap, crop, tile):
    layout = lay_out(Image.new("RGB", (size[1], size[0])), Tiling(sides=tuple(sides), overlap=overlap, crop=crop), tile)
    assert layout.scales[0] == Scale(tile, ((0, 0),))
    assert len(layout.boxes) == sum(len(scale.corners) for scale in layout.scales)
    for axis in (0, 1):
        assert layout.start[axis] + layout.shape[axis] <= layout.grid[axis]
    for scale in layout.scales:
        seen = np.zeros(scale.shape, int)
        for row, column in scale.corners:
            assert row + tile[0] <= scale.shape[0]
            assert column + tile[1] <= scale.shape[1]
            seen[row : row + tile[0], column : column + tile[1]] += 1
        assert seen.all()
        for axis in (0, 1):
            firsts = sorted({corner[axis] for corner in scale.corners})
            shared = [tile[axis] - (after - before) for before, after in pairwise(firsts)]
            assert all(number >= int(overlap * tile[axis]) for number in shared)
    for left, top, right, bottom in layout.boxes:
        assert 0 <= left < right <= size[1]
        assert 0 <= top < bottom <= size[0]


def test_tiles_are_square_and_about_as_large_as_asked_for():
    layout = lay_out(Image.new("RGB", (1000, 700)), Tiling(sides=(240,)), (15, 15))
    sides = np.array([(right - left, bottom - top) for left, top, right, bottom in layout.boxes[1:]])
    assert abs(sides - 240).max() <= 6  # less than half a patch
    assert layout.boxes[0] == (0, 0, 1000, 700)
    assert layout.grid == (43, 62)  # cells of 16 px
    wide = lay_out(Image.new("RGB", (1000, 100)), Tiling(sides=(240,)), (15, 15))  # no tile is larger than the shorter side
    assert {box[3] - box[1] for box in wide.boxes} == {100}
    assert abs(np.array([right - left for left, _, right, _ in wide.boxes[1:]]) - 100).max() <= 1


def test_no_larger_than_a_tile_is_seen_once():
    assert len(lay_out(Image.new("RGB", (240, 200)), Tiling(sides=(240, 300)), (15, 15)).boxes) == 1 + 2  # two of 200 px
    assert len(lay_out(Image.new("RGB", (200, 200)), Tiling(sides=(240, 300)), (15, 15)).boxes) == 1


@given(
    shape=st.tuples(st.integers(15, 60), st.integers(15, 60)), overlap=st.sampled_from([0.0, 0.25, 0.5]), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_blending_keeps_what_tiles_agree_on_and_has_no_seams(shape, overlap, seed):
    layout = lay_out(Image.new("RGB", shape[::-1]), Tiling(sides=(32,), overlap=overlap), (15, 15))
    scale = layout.scales[-1]
    field = torch.rand(2, *scale.shape, generator=torch.Generator().manual_seed(seed))
    cut = torch.stack([field[:, row : row + 15, column : column + 15] for row, column in scale.corners])
    assert (blend(cut, scale, scale.shape) - field).abs().max() < 1e-6  # two seeds
    apart = torch.rand(len(scale.corners), 1, 1, 1, generator=torch.Generator().manual_seed(seed))
    one = blend(apart.expand(-1, 1, 15, 15), scale, scale.shape)[0]  # each tile says something else
    assert one.min() >= apart.min() - 1e-6
    assert one.max() <= apart.max() + 1e-6


@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
def test_where_tiles_disagree_the_map_runs_from_one_to_the_other(overlap):
    layout = lay_out(Image.new("RGB", (640, 240)), Tiling(sides=(240,), overlap=overlap), (15, 15))
    scale = layout.scales[-1]
    turns = torch.tensor([number % 2 for number in range(len(scale.corners))]).float()
    one = blend(turns[:, None, None, None].expand(-1, 1, 15, 15), scale, scale.shape)[0]
    shared = 15 - max(after[1] - before[1] for before, after in pairwise(scale.corners))
    assert one.diff(dim=1).abs().max() <= 1 / min(shared, 7.5) + 1e-6  # a weight falls to 0 over half a tile


def test_parts_are_joined_seed_by_seed():
    layout = lay_out(Image.new("RGB", (480, 240)), Tiling(sides=(240,)), (3, 3))
    rng = np.random.default_rng(0)
    seeds = [(rng.random(2, np.float32), rng.random((2, 3, 3), np.float32)) for _ in layout.boxes]
    parts = [ImageScores(images.mean(), patches.mean(axis=0), images, patches) for images, patches in seeds]
    joined = join(layout, parts)
    plain = join(layout, [ImageScores(one.image_score, one.patch_scores) for one in parts])
    assert joined.patch_seeds.shape == (2, *layout.grid)
    assert np.allclose(joined.patch_scores, plain.patch_scores)  # a mean of means
    assert np.array_equal(joined.image_seeds, parts[0].image_seeds)
    assert joined.image_score == parts[0].image_score
    assert plain.patch_seeds is None


class Parts(MeanJob):
    """Notes how far parts are cut ahead of the model."""

    recipe = Recipe(tiling=Tiling(sides=(64,), overlap=0.0))

    def __init__(self, fits=10**9):
        super().__init__(fits)
        self.cut = self.most = 0

    def preprocess(self, picture):
        return np.asarray(picture), lay_out(picture, self.recipe.tiling, (2, 2))

    def pixels(self, picture):
        self.cut += 1
        self.most = max(self.most, self.cut - sum(self.batches))
        return super().pixels(picture.resize((8, 8)))


def test_tiles_go_through_in_batches_and_are_cut_when_their_turn_comes():
    job = Parts()
    outcomes = list(run(job, [SourceItem(drawn(i, (256, 256)), f"{i}", f"{i}") for i in range(3)], batch_size=4))
    assert len(outcomes) == 3
    assert job.batches == [4, 4, 4, 4, 1] * 3  # 16 tiles and the whole
    assert job.most == 4


def test_out_of_memory_halves_the_tiles():
    whole, small = Parts(), Parts(fits=3)
    image = SourceItem(drawn(0, (256, 200)), "0", "0")
    (expected,), (got,) = run(whole, [image], batch_size=8), run(small, [image], batch_size=8)
    assert max(small.batches) == 2
    assert np.allclose(got.prediction.patch_scores, expected.prediction.patch_scores)
    with pytest.raises(OutOfMemoryError, match="one image alone"):
        list(run(Parts(fits=0), [image]))


def test_a_picture_kept_for_drawing_is_another_one():
    image = SourceItem(drawn(0, (64, 1700)), "0", "0")
    (kept,) = run(Parts(), [image], keep_pictures=True)
    (alone,) = run(Parts(), [image])
    assert kept.picture.size == (1600, 60)
    assert np.array_equal(kept.prediction.patch_scores, alone.prediction.patch_scores)


def test_broken_images_between_tiled_ones():
    outcomes = list(run(Parts(), [grey(0), SourceItem(b"no image", "1", "1"), grey(2)], batch_size=2))
    assert [outcome.prediction is None for outcome in outcomes] == [False, True, False]


def test_a_tile_is_an_image_of_its_own(detector):
    """Where one tile alone covers a cell, the grid is the mean of the whole image's and that tile's as an image."""
    image, (rows, columns) = drawn(), detector.method.encoder.grid
    side = 100
    prediction = detector.predict(image, "nut", tiles=Tiling(sides=(side,), overlap=0.0))
    layout = detector.job("nut", tiles=Tiling(sides=(side,), overlap=0.0)).layout(Image.fromarray(image))
    (left, top, right, bottom), (row, column) = layout.boxes[1], layout.scales[1].corners[0]
    own = detector.predict(image[top:bottom, left:right], "nut").patch_scores
    whole = detector.anomaly_map(detector.predict(image, "nut").patch_scores, layout.grid)
    assert (row, column) == (0, 0)
    others = min(corner[1] for corner in layout.scales[1].corners if corner[1])
    below = min((corner[0] for corner in layout.scales[1].corners if corner[0]), default=rows)
    got = prediction.patch_scores[: min(rows, below), : min(columns, others)]
    assert got.size > 1
    assert np.abs(got - (own + whole[:rows, :columns])[: got.shape[0], : got.shape[1]] / 2).max() < 1e-5
    assert prediction.anomaly_map.shape == prediction.image_size == (130, 300)
    assert prediction.patch_scores.shape == layout.grid


@pytest.mark.parametrize(
    ("method", "adapt"), [("anovl", False), ("anovl", True), ("winclip", False), ("transmm", False), ("clip", False)]
)
def test_every_method(detector, method, adapt):
    chosen = detector.with_method(method)
    image = drawn(1, (70, 60))
    same = chosen.predict(image[:60], "nut", tiles=64, adapt=adapt)  # no larger than a tile
    whole = chosen.predict(image[:60], "nut", adapt=adapt)
    assert np.abs(same.patch_scores - whole.patch_scores).max() < 1e-6
    assert abs(same.pred_score - whole.pred_score) < 1e-6
    assert chosen.predict(image, "nut", tiles=40, adapt=adapt).patch_scores.size > whole.patch_scores.size


def test_stream_seeds_and_batches_give_the_same(detector):
    images = [drawn(seed, (60, 60 + 40 * seed)) for seed in range(2)]
    options = {"tiles": Tiling(sides=(64, 48)), "adapt": True, "seed": [0, 1]}
    alone = [detector.predict(image, "nut", **options) for image in images]
    for got, expected in zip(detector.stream(images, "nut", batch_size=3, **options), alone, strict=True):
        assert np.abs(got.anomaly_map - expected.anomaly_map).max() < 1e-5
        assert got.patch_scores_std.shape == got.patch_scores.shape


def test_stages_of_a_cluster_carry_parts(detector, tmp_path):
    for seed in range(3):
        Image.fromarray(drawn(seed, (70, 90 + seed))).save(tmp_path / f"{seed}.png")
    images = [SourceItem(path, path.name, path.stem) for path in sorted(tmp_path.iterdir())]
    job = detector.job("nut", tiles=64)
    processor = job.without_model()
    score = Score(lambda task: work_of(job, 4), 2)
    shard = score(Decode([processor], draws=True)(packed(0, images)))
    for (image, scores), item in zip(unpack(shard["data"]), images, strict=True):
        got = processor.finish(image.item, image.size, scores, image.timings)
        assert np.abs(got.anomaly_map - detector.predict(item.image, "nut", tiles=64).anomaly_map).max() < 1e-5


def test_evaluation_scores_tiles_too(detector, tmp_path):
    folder = tmp_path / "washer"
    for kind, defect, number in (("good", None, 1), ("scratch", "scratch", 2)):
        sample = draw("washer", number, defect=defect, size=96)
        for place, pixels in ((f"test/{kind}/000.png", sample.image), (f"ground_truth/{kind}/000_mask.png", sample.mask)):
            if defect or place.startswith("test"):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / place)
    tiled = detector.with_recipe(anovl.recipe("default", tiling=Tiling(sides=(48,))))
    rows = [Variant(name="tiles", detector=tiled), Variant(name="whole", detector=detector)]
    done = anovl.evaluate(rows, anovl.datasets.load("folder", folder), resolution="original")
    (first, *_) = done.cells["tiles", "washer"].scored
    assert (
        first.patch_scores.shape[1:]
        == lay_out(Image.new("RGB", (96, 96)), Tiling(sides=(48,)), detector.method.encoder.grid).grid
    )
    assert done.measured("tiles")["washer"].figures != done.measured("whole")["washer"].figures
    assert rows[0].settings()["recipe"]["tiling"]["sides"] == (48,)


def test_foreground():
    top, left, bottom, right = foreground_box(disc())
    assert np.abs(np.array([top, left, bottom, right]) - (33, 143, 128, 238)).max() <= 8
    large = foreground_box(disc((800, 1200), (320, 760), 160))
    assert np.abs(np.array(large) / 4 - (top, left, bottom, right)).max() < 4
    assert foreground_box(Image.fromarray(drawn())) is None  # no plain border
    assert foreground_box(Image.new("RGB", (300, 200), (9, 9, 9))) is None  # nothing in front
    assert foreground_box(disc(radius=3)) is None  # a speck
    assert foreground_box(Image.new("RGB", (1, 1))) is None


def test_drawn_parts_are_found_and_their_defects_are_inside():
    boxes = {}
    for name in ("washer", "gear", "coin", "leather", "concrete"):
        sample = draw(name, 5, defect="scratch", size=240)
        boxes[name] = foreground_box(Image.fromarray(sample.image))
        if boxes[name] is not None:
            top, left, bottom, right = boxes[name]
            outside = sample.mask.copy()
            outside[top:bottom, left:right] = False
            assert not outside.any()
    assert boxes["leather"] is boxes["concrete"] is None
    assert sum(box is not None for box in boxes.values()) >= 2


def test_crop(detector):
    picture = disc()
    prediction = detector.predict(picture, "nut", tiles=Tiling(crop="foreground"))
    assert prediction.anomaly_map.shape == (200, 300)
    layout = detector.job("nut", tiles=Tiling(crop="foreground")).layout(picture)
    assert layout.shape == detector.method.encoder.grid
    (left, top, right, bottom) = layout.boxes[0]
    assert max(left - 150, top - 40) <= 0 <= min(right - 230, bottom - 120)
    inside = np.zeros((200, 300), bool)
    inside[top:bottom, left:right] = True
    cell = 1 + max(200 / layout.grid[0], 300 / layout.grid[1]) / 2
    far = np.ones_like(inside)
    far[max(0, int(top - cell)) : int(bottom + cell), max(0, int(left - cell)) : int(right + cell)] = False
    assert far.any()
    assert not prediction.anomaly_map[far].any()
    own = detector.predict(np.asarray(picture)[top:bottom, left:right], "nut")
    assert abs(prediction.pred_score - own.pred_score) < 1e-6
    assert np.abs(prediction.patch_scores.max() - own.patch_scores.max()) < 1e-6
    plain = detector.predict(drawn(), "nut")
    nothing = detector.predict(drawn(), "nut", tiles=Tiling(crop="foreground"))  # stands out
    assert np.allclose(nothing.anomaly_map, plain.anomaly_map, atol=1e-6)


def test_profiles_hold_for_their_tiles_alone(detector):
    good = [drawn(seed, (80, 120)) for seed in range(3)]
    profile = detector.calibrate(good, "nut", tiles=64)
    fitted = detector.with_profile(profile)
    assert fitted.predict(good[0], "nut", tiles=64).calibrated
    with pytest.raises(UsageError, match="tiling"):
        fitted.predict(good[0], "nut")
    with pytest.raises(UsageError, match="tiling"):
        fitted.predict(good[0], "nut", tiles=48)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"sides": (16,)}, "at least 32"),
        ({"sides": (64, 64)}, "each once"),
        ({"sides": (64.0,)}, "at least 32"),
        ({"sides": (True,)}, "at least 32"),
        ({"overlap": 0.8}, "0 to 0.75"),
        ({"overlap": float("nan")}, "0 to 0.75"),
        ({"crop": "part"}, "foreground"),
    ],
)
def test_wrong_settings(wrong, told):
    with pytest.raises(UsageError, match=told):
        Tiling(**wrong)


def test_what_goes_with_no_tiles(detector, tmp_path):
    with pytest.raises(UsageError, match="full size"):
        detector.job("nut", tiles=64, decode="reduced")
    with pytest.raises(UsageError, match="Tiling"):
        detector.predict(drawn(), "nut", tiles="64")
    from anovl.exporting import export

    tiled = detector.with_recipe(anovl.recipe("default", tiling=Tiling(sides=(64,))))
    with pytest.raises(UsageError, match="whole images"):
        export(tiled, tmp_path / "x.onnx", ["nut"], versions={})


@pytest.mark.parametrize("crop", ["none", "foreground"])
def test_names_are_joined_like_scores(detector, crop):
    tiling = Tiling(sides=(64,), crop=crop)
    found = detector.predict(disc(), "metal nut", tiles=tiling, names=["scratch", "hole"])
    assert found.name_scores.shape == (*found.patch_scores.shape, 2)
    whole = detector.predict(disc(), "metal nut", names=["scratch", "hole"])
    assert np.abs(found.name_scores).max() <= 1
    assert not np.allclose(found.name_scores.mean(axis=(0, 1)), whole.name_scores.mean(axis=(0, 1)), atol=1e-6)


def test_what_compares_whole_pictures_refuses_tiles(detector):
    fitted = detector.fit([drawn(), drawn(1)], "metal nut")
    with pytest.raises(UsageError, match="a bank holds tokens of whole pictures"):
        fitted.predict(drawn(), "metal nut", tiles=64)
    with pytest.raises(UsageError, match="batched: compares whole images"):
        list(detector.stream([drawn(), drawn(1)], "metal nut", batched=True, tiles=64))
