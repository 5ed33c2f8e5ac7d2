"""The words of the page: what is told, and that nothing of a visitor's becomes markup."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from anovl.render.overlay import framed
from anovl.results import Prediction
from anovl.webui import views
from anovl.webui.mounting import _problem_of


def prediction(**changes):
    values = np.zeros((20, 30), np.float32)
    values[2:5, 3:9] = 0.9
    values[10:12, 20:21] = 0.7
    return Prediction(
        image_path=None,
        image_size=(20, 30),
        class_name="<b>nut</b>",
        pred_score=0.8,
        anomaly_map=values,
        patch_scores=values[:2, :2],
        **changes,
    )


def found(*scores):
    return [SimpleNamespace(pred_score=score, name="n") for score in scores]


def test_the_verdict_tells_decision_thresholds_and_area():
    one = prediction(threshold=0.5, pixel_threshold=0.6)
    text = views.verdict("<img src=x>", one, one.regions())
    assert 'class="verdict anomalous"' in text
    assert "score 0.800, threshold 0.500, not calibrated" in text
    assert "2 regions, 3.33% of the picture marked at 0.600" in text
    assert "<img" not in text
    assert "<b>" not in text
    assert ", calibrated" in views.verdict("a", prediction(calibrated=True), [])
    assert 'class="verdict normal"' in views.verdict("a", prediction(threshold=0.81), [])


def test_names_and_reasons_are_escaped():
    session = SimpleNamespace(failed=[("<script>x</script>", "<i>")] * 25, found=[])
    text = views.failures(session)
    assert "<script>" not in text
    assert "25 files could not be read" in text
    assert "and 5 more" in text
    assert views.failures(SimpleNamespace(failed=[])) == ""
    assert "<" not in re.sub(r"</?(div|p)[^>]*>", "", views.problem("<i>a</i>"))
    assert "<i>" not in views.gallery("<i>", [views.Tile(b"", ("<i>a", "b"))])


def test_counts_and_histogram_are_of_batches():
    batch = SimpleNamespace(found=found(0.1, 0.5, 0.9))
    assert "<strong>3 pictures</strong>, 2 anomalous, 1 normal" in views.counts(batch, 0.5)
    assert views.counts(SimpleNamespace(found=found(0.1)), 0.5) == views.histogram(found(0.1), 0.5) == ""
    assert "3 scores from 0.1 to 0.9, 2 at or over the threshold 0.5" in views.histogram(batch.found, 0.5)


def test_the_table_lists_the_regions_by_their_numbers():
    regions = prediction(threshold=0.5).regions()
    text = views.region_table(regions)
    assert re.findall(r"<td>([^<]*)</td>", text) == ["3", "2", "9", "5", "18", "0.900", "20", "10", "21", "12", "2", "0.700"]
    assert "No pixel" in views.region_table([])
    assert "and 5 more" in views.region_table(regions[:1] * 25)


def test_the_table_tells_names_and_margin():
    scores = np.broadcast_to(np.array([0.25, 0.5], np.float32), (2, 2, 2))
    text = views.region_table(prediction(names=("<i>hole", "cut"), name_scores=scores).regions())
    cells = re.findall(r"<td>([^<]*)</td>", text)
    assert cells[6:8] == ["cut 0.500, &lt;i&gt;hole 0.250", "0.250"]
    assert len(cells) == 2 * 8
    assert 'scope="col">resembles<' in text


@pytest.mark.parametrize("size", [(30, 20), (600, 400), (1, 1)])
def test_boxes_are_drawn_where_the_regions_are(size):
    one = prediction(threshold=0.5)
    picture = Image.new("RGB", size, (90, 90, 90))
    drawn = np.asarray(framed(picture, one, one.regions()))
    assert drawn.shape[:2] == size[::-1]
    assert np.asarray(picture).min() == 90  # a copy
    if size == (600, 400):
        yellow = (drawn == (255, 214, 10)).all(axis=-1)
        assert yellow[40, 60:180].all()  # the upper edge of the first region, twenty times as large
        assert not yellow[45:95, 70:170].any()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"fn_index": 3, "data": [{"path": "/tmp/x.png", "url": "http://own/x.png"}, 1, null, "http://a"]}', ""),
        (b'{"fn_index": 3, "data": [{"path": "http://a/b.png"}]}', "got an address"),
        (b'{"fn_index": 3, "data": [[{"a": {"path": "ftp://a"}}]]}', "got an address"),
        (b'{"fn_index": 4, "data": []}', "an event of the page"),
        (b'{"fn_index": true, "data": []}', "an event of the page"),
        (b'{"data": []}', "an event of the page"),
        (b"[1]", "an event of the page"),
        (b"no JSON", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 100_000, "expected JSON"),
    ],
)
def test_calls_that_are_let_through(body, expected):
    problem = _problem_of(body, {1, 3})
    assert expected in problem
    assert bool(problem) == bool(expected)
    if expected == "an event of the page" and body != b"[1]":
        assert _problem_of(body, None) == ""  # a call that names none


def test_what_is_beside_the_words():
    bank = {"pictures": 1, "key": "abcd1234"}
    assert views.beside({"banks": {"nut": bank}, "tiling": None}) == ["nut: compared with 1 good picture too (bank abcd1234)."]
    told = views.beside({"banks": {}, "tiling": {"sides": (512, 256), "overlap": 0.25, "crop": "none"}})
    assert told == ["Pictures are looked at whole and in tiles of 512, 256 px."]
    assert views.beside({"tiling": {"sides": (), "crop": "foreground"}}) == [
        "Only the part in front of a plain background is looked at."
    ]
    assert views.beside({"classes": None}) == []
