from itertools import combinations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from anovl.data.synthetic import CLASSES, MAX_SIZE, MIN_SIZE, defects, draw
from anovl.data.synthetic.defects import SURFACE_DEFECTS, VISIBLE, contrast
from anovl.data.synthetic.objects import bracket, pill
from anovl.data.synthetic.scene import HELD_OUT
from anovl.data.synthetic.textures import TEXTURES
from anovl.errors import UsageError

EVERY = [(name, kind) for name, info in CLASSES.items() for kind in info.defects]


def test_world_is_as_wide_as_promised():
    kinds = {kind for info in CLASSES.values() for kind in info.defects}
    names = {kind: [i.name for i in CLASSES.values() if i.kind == kind] for kind in ("object", "texture")}
    held_out = [info.kind for info in CLASSES.values() if info.held_out]
    assert len(names["object"]) >= 12
    assert len(names["texture"]) >= 8
    assert len(kinds) >= 10
    assert sorted(held_out) == ["object", "object", "texture", "texture"]


@pytest.mark.parametrize("name", CLASSES)
def test_good_picture(name):
    sample = draw(name, 5, size=MIN_SIZE)
    assert sample.image.shape == (MIN_SIZE, MIN_SIZE, 3)
    assert sample.image.dtype == np.uint8
    assert sample.image.std() > 2, "an empty picture"
    assert not sample.mask.any()
    assert sample.defect is None
    assert name in sample.caption


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_defect_is_drawn_and_marked(name, kind):
    good, bad = draw(name, 3, size=144), draw(name, 3, size=144, defect=kind)
    share = bad.mask.mean()
    assert 0.0005 <= share <= 0.6
    assert (bad.class_name, bad.defect) == (name, kind)
    assert kind in bad.caption
    assert contrast(good.image, bad.image, bad.mask) >= VISIBLE, "nothing to see under the mask"


def test_contrast_is_of_the_change_over_what_varies_there():
    rng = np.random.default_rng(0)
    mask = np.zeros((240, 240), dtype=bool)
    mask[100:140, 100:140] = True

    def of(grain, change, where=mask):
        good = (128 + rng.normal(0, grain, (240, 240, 1)) + np.zeros(3)).clip(0, 240).astype(np.uint8)
        return contrast(good, good + np.uint8(change) * where[..., None], where)

    assert of(0, 0) == of(30, 0) == 0
    assert of(0, 8) == pytest.approx(2, abs=0.05)
    assert of(0, 8) > of(10, 8) > of(40, 8)
    line = np.zeros_like(mask)
    line[100:140, 120] = True
    assert of(20, 12) > VISIBLE > of(20, 12, line), "a wide change shows where a narrow one is lost"
    assert contrast(np.zeros((240, 240, 3), np.uint8), np.ones((240, 240, 3), np.uint8), np.zeros_like(mask)) == 0


@pytest.mark.parametrize("name", ["bottle", "capsule", "coin", "screw"])
def test_the_least_bend_moves_the_outline(name):
    shares = [draw(name, seed, defect="bent", severity=(0, 0)).mask.mean() for seed in range(12)]
    assert min(shares) > 0.001


def test_without_a_part_a_thing_is_like_no_good_one():
    """Of marks and bores no good thing has just one less."""
    for make in (pill, bracket):
        counts = {}
        for seed in range(60):
            parts = make(np.random.default_rng(seed))
            outline = tuple(parts[0].shape(*(np.float32([value]) for value in at))[0] < 0 for at in ((0, 0), (0.9, 0), (0, 0.9)))
            counts.setdefault(outline, set()).add(sum(part.loose for part in parts))
        assert all(count - 1 not in some for some in counts.values() for count in some), make.__name__


@pytest.mark.parametrize("kind", [kind for kind in SURFACE_DEFECTS if kind not in ("discoloration", "distortion")])
def test_mask_is_exact(kind):
    """Four pixels beyond the mask the picture is the good one, but for the faint tips of a stroke."""
    for name in ("washer", "leather", "circuit board", "wood", "concrete"):
        good, bad = draw(name, 8), draw(name, 8, defect=kind)
        changed = np.abs(good.image.astype(int) - bad.image.astype(int)).max(axis=2)
        assert (changed[~binary_dilation(bad.mask, iterations=4)] > 2).mean() < 0.0005
        assert (changed[bad.mask] > 2).mean() > (0.2 if kind in ("cut", "abrasion", "burn") else 0.8)


def test_same_arguments_same_picture():
    one, two = draw("gear", 11, defect="crack"), draw("gear", 11, defect="crack")
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.mask, two.mask)
    assert not np.array_equal(one.image, draw("gear", 12, defect="crack").image)


def test_size_changes_the_detail_not_the_scene():
    for name in ("bottle cap", "cable", "screw"):
        small, large = draw(name, 4, size=120).image, draw(name, 4, size=240).image
        shrunk = large.reshape(120, 2, 120, 2, 3).mean(axis=(1, 3))
        assert np.corrcoef(shrunk.ravel(), small.ravel())[0, 1] > 0.9
    for seed in range(4):
        small, large = (draw("brushed metal", seed, size=size).image for size in (120, 240))
        assert small.mean(axis=(0, 1)) == pytest.approx(large.mean(axis=(0, 1)), abs=4)
    assert draw("tile", 1, size=MAX_SIZE, defect="hole").mask.shape == (MAX_SIZE, MAX_SIZE)


def test_severity_widens_and_deepens():
    def mean_area(severity):
        return np.mean([draw("concrete", seed, size=96, defect="stain", severity=severity).mask.mean() for seed in range(12)])

    assert mean_area((0.8, 1.0)) > 4 * mean_area((0.0, 0.2))


@pytest.mark.parametrize(
    ("name", "kind"), [("tile", "chip"), ("gear", "chip"), ("gear", "bent"), ("circuit board", "misplaced part")]
)
def test_severity_of_shapes_and_parts(name, kind):
    def mean_area(value):
        return np.mean([draw(name, seed, size=96, defect=kind, severity=(value, value)).mask.mean() for seed in range(12)])

    assert mean_area(1) > 1.2 * mean_area(0)


def test_what_lies_on_a_thing_is_never_of_a_held_out_class(monkeypatch):
    def fails(rng, size):
        raise AssertionError("drawn")

    seen = set()

    def noted(number, make):
        return lambda rng, size: seen.add(number) or make(rng, size)

    monkeypatch.setattr(defects, "MATERIALS", [noted(number, make) for number, make in enumerate(defects.MATERIALS)])
    for name in set(HELD_OUT) & set(TEXTURES):
        monkeypatch.setitem(TEXTURES, name, fails)
    for seed in range(100):
        draw("washer", seed, size=MIN_SIZE, defect="contamination")
    assert seen == set(range(11))


def test_discoloration_and_broken_edges_go_by_the_thing_not_by_what_is_around_it():
    """Of a thin thing, too, as many spots are darker as are lighter, and some edges are brighter than it."""

    def changes(kind):
        for seed in range(24):
            good, bad = draw("screw", seed, size=MIN_SIZE), draw("screw", seed, size=MIN_SIZE, defect=kind)
            yield (bad.image[bad.mask].mean() - good.image[bad.mask].mean())

    for kind in ("discoloration", "chip"):
        lighter = [change > 0 for change in changes(kind)]
        assert 3 < sum(lighter) < 21, kind


@pytest.mark.parametrize(
    ("name", "seed", "kind", "mean", "deviation"),
    [
        ("bracket", 3, None, [19.04, 28.11, 42.16], 23.38),
        ("cable", 5, "missing part", [125.75, 128.25, 71.29], 42.05),
        ("brushed metal", 3, "chip", [47.18, 60.37, 59.63], 11.77),
        ("fabric", 4, "stain", [108.69, 90.52, 95.62], 31.89),
        ("printed paper", 3, None, [119.07, 119.07, 119.07], 63.86),
    ],
)
def test_a_seed_draws_what_it_always_did(name, seed, kind, mean, deviation):
    """Data sets of earlier versions can be drawn again; colours, since bytes may round otherwise elsewhere."""
    image = draw(name, seed, size=MIN_SIZE, defect=kind).image
    assert image.mean(axis=(0, 1)) == pytest.approx(mean, abs=0.05)
    assert image.std() == pytest.approx(deviation, abs=0.05)


def look(image):
    """Colours and how much they vary: the same for another piece of a material."""
    return np.concatenate([image.mean(axis=(0, 1)), image.std(axis=(0, 1))])


@pytest.mark.parametrize("name", CLASSES)
def test_pictures_of_a_line_are_alike_and_not_the_same(name):
    lines = [[draw(name, seed, size=MIN_SIZE, line=line).image for seed in (1, 2)] for line in range(4)]
    assert min(np.abs(one.astype(int) - two).mean() for one, two in lines) > 2
    within = [np.abs(look(one) - look(two)).mean() for one, two in lines]
    across = [np.abs(look(one[0]) - look(two[0])).mean() for one, two in combinations(lines, 2)]
    assert np.mean(within) < 0.25 * np.mean(across)
    assert np.array_equal(draw(name, 1, size=MIN_SIZE, line=0).image, lines[0][0])


def test_a_line_keeps_its_ground_and_moves_its_part():
    one, two = (draw("washer", seed, size=MIN_SIZE, line=2).image.astype(int) for seed in (1, 2))
    changed = np.abs(one - two).max(axis=2)
    assert np.median(changed[:8]) < 12 < np.percentile(changed, 98), "noise on the ground, edges that moved"


@pytest.mark.parametrize("name", ["washer", "circuit board", "leather", "wood"])
def test_defect_on_a_line_is_masked(name):
    good, bad = draw(name, 8, line=5), draw(name, 8, defect="stain", line=5)
    changed = np.abs(good.image.astype(int) - bad.image.astype(int)).max(axis=2)
    assert (changed[~binary_dilation(bad.mask, iterations=4)] > 2).mean() < 0.0005
    assert (changed[bad.mask] > 2).mean() > 0.8


@pytest.mark.parametrize("on_a_line", [False, True])
@pytest.mark.parametrize("name", CLASSES)
def test_a_defect_leaves_the_rest_of_the_picture_alone(name, on_a_line):
    """Light, camera and sheen are the same, whatever the defect: away from the mask and its shadow nothing changes."""
    for seed in (1, 2):
        line = seed if on_a_line else None
        good = draw(name, seed, size=MIN_SIZE, line=line).image.astype(int)
        for kind in CLASSES[name].defects:
            bad = draw(name, seed, size=MIN_SIZE, line=line, defect=kind)
            changed = np.abs(good - bad.image).max(axis=2)[~binary_dilation(bad.mask, iterations=6)]
            assert np.percentile(changed, 80) <= 1, kind
            assert changed.mean() < 1, kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_name": "washr"}, "washer"),
        ({"defect": "scrach"}, "scratch"),
        ({"class_name": "washer", "defect": "distortion"}, "defect of washer"),
        ({"size": 95}, "96 to 1024"),
        ({"size": 1025}, "96 to 1024"),
        ({"seed": -1}, "from 0"),
        ({"line": -1}, "line: expected"),
        ({"severity": (0.5, 0.2)}, "severity"),
        ({"severity": (0.0, 1.5)}, "severity"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UsageError, match=message):
        draw(**{"class_name": "washer", "seed": 0, **arguments})
