"""What a visitor's run keeps: scores, never maps; thresholds and drawing without the model."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from anovl.engine.local import InParts, Stacked, work_of
from anovl.errors import ImageError, UsageError
from anovl.webui.session import PANEL, TILE, Looks, Session, Thresholds, decided, named


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(60, 40), (300, 500), (1, 1), (2000, 30)]):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(size).save(paths[-1])
    return paths


@pytest.fixture
def session(detector):
    return Session(Stacked(detector.job("nut")), {"class_name": "nut"}, Looks())


def run(session, paths, batch_size=2):
    return list(session.run(named(paths), batch_size=batch_size, workers=2))


def test_scores_and_maps_are_those_of_the_detector(session, pictures, detector):
    assert run(session, pictures) == [1, 2, 3, 4]
    for place, found in enumerate(session.ranked):
        own = detector.predict(pictures[int(found.name[0])], "nut")
        assert found.pred_score == pytest.approx(own.pred_score, abs=1e-5)
        assert found.peak == pytest.approx(own.anomaly_map.max(), abs=1e-5)
        assert max(Image.open(io.BytesIO(found.tile)).size) <= TILE
        session.select(place)
        looked, picture = session.look()
        assert np.abs(looked.anomaly_map - own.anomaly_map).max() < 1e-5
        assert PANEL / 2 <= max(picture.size) <= PANEL
    scores = [found.pred_score for found in session.ranked]
    assert scores == sorted(scores, reverse=True)
    low, high = session.score_range()
    assert all(low <= found.pred_score <= high and low <= found.peak <= high for found in session.found)
    assert session.origin == detector.job("nut").origin


def test_looking_scores_nothing(session, pictures, monkeypatch):
    run(session, pictures[:2])
    monkeypatch.setattr(Stacked, "score", lambda *_: pytest.fail("scored again"))
    for place in (0, 1, 5, -3):  # the nearest where there is none
        session.select(place)
        assert session.look()[0].anomaly_map.shape == session.selected.size
    assert session.selected is session.ranked[0]


def test_maps_that_are_looked_at_take_bounded_memory(session, pictures, monkeypatch):
    run(session, pictures)
    made = []
    look = Session._look
    monkeypatch.setattr(Session, "_look", lambda self, found: made.append(found.name) or look(self, found))
    session.looks = Looks(most_bytes=4 * 300 * 500 + 4 * 60 * 40)  # the second picture and the first, no other beside them
    for name in ("0.png", "1.png", "0.png", "1.png", "3.png", "1.png", "0.png"):
        session.selected = next(found for found in session.found if found.name == name)
        assert session.look()[0].anomaly_map.shape == session.selected.size
    assert made == ["0.png", "1.png", "3.png", "1.png", "0.png"]
    session.looks = Looks(most_bytes=1)
    session.look()
    session.look()
    assert made[5:] == ["0.png", "0.png"]


def test_other_thresholds_are_other_decisions(session, pictures):
    run(session, pictures[:1])
    session.select(0)
    looked, _ = session.look()
    for thresholds in (Thresholds(0.1, 0.9), Thresholds(0.9, 0.1, calibrated=True)):
        one = decided(looked, thresholds)
        assert (one.pred_label, one.calibrated) == (looked.pred_score >= thresholds.image, thresholds.calibrated)
        assert np.array_equal(one.mask(), looked.anomaly_map >= thresholds.pixel)


def test_a_broken_file_is_named_and_the_others_are_scored(session, pictures, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert run(session, [pictures[0], tmp_path / "broken.png", pictures[1]]) == [1, 2, 3]
    assert [found.name for found in session.found] == ["0.png", "1.png"]
    ((name, reason),) = session.failed
    assert name == "broken.png"
    assert str(tmp_path) not in reason


def test_a_stopped_run_keeps_what_is_done(session, pictures):
    for done in session.run(named(pictures * 10), batch_size=1, workers=1):
        session.stopped = done == 3
    assert len(session.found) == 3


def test_pictures_that_are_looked_at_in_parts_go_one_at_a_time(detector, pictures, monkeypatch):
    sizes = []
    score = InParts.score
    monkeypatch.setattr(InParts, "score", lambda self, batch: sizes.append(len(batch)) or score(self, batch))
    session = Session(work_of(detector.job("nut", tiles=64), 8), {}, Looks(), in_parts=True)
    run(session, pictures[:3], batch_size=8)
    assert sizes == [1, 1, 1]
    for found in session.found:
        own = detector.predict(pictures[int(found.name[0])], "nut", tiles=64)
        assert found.pred_score == pytest.approx(own.pred_score, abs=1e-6)


def test_nothing_is_selected_or_found(session, tmp_path):
    with pytest.raises(UsageError, match="select"):
        session.look()
    session.select(0)
    assert session.selected is None
    with pytest.raises(UsageError, match="nothing to download"):
        session.write_archive(tmp_path / "a.zip", Thresholds(0.5, 0.5), {})


def test_a_file_that_vanished(session, pictures, tmp_path):
    run(session, pictures[:1])
    session.select(0)
    pictures[0].unlink()
    with pytest.raises(ImageError):
        session.look()
    with pytest.raises(ImageError):
        session.write_archive(tmp_path / "a.zip", Thresholds(0.5, 0.5), {})
    assert not (tmp_path / "a.zip").exists()


def test_the_archive(session, pictures, tmp_path):
    run(session, pictures[:2])
    session.failed.append(("x.png", "torn"))
    session.write_archive(tmp_path / "results.zip", Thresholds(0.25, 0.75), {"anovl": "0"})
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert sorted(archive.namelist()) == [
            f"results/{name}"
            for name in (
                "errors.jsonl",
                "mask/0.png",
                "mask/1.png",
                "overlay/0.png",
                "overlay/1.png",
                "predictions.csv",
                "predictions.jsonl",
                "run.json",
            )
        ]
        rows = [json.loads(line) for line in archive.read("results/predictions.jsonl").splitlines()]
        assert [(row["image_path"], row["threshold"], row["pixel_threshold"]) for row in rows] == [
            ("0.png", 0.25, 0.75),
            ("1.png", 0.25, 0.75),
        ]
        assert json.loads(archive.read("results/run.json"))["settings"]["class_name"] == "nut"
    assert [path.name for path in tmp_path.iterdir() if not path.name[0].isdigit()] == ["results.zip"]


def test_names_are_kept_and_equal_ones_are_numbered():
    items = named(["/a/x.png", "/b/x.png", "/c/X.jpg", "/d/x-2.png", "/e/y.png"])
    assert [item.image_path for item in items] == ["x.png", "x-2.png", "X-3.jpg", "x-2-2.png", "y.png"]
    assert len({item.stem.lower() for item in items}) == 5
