"""The pipeline in the manner of transformers: one picture a dictionary, a list of them a list."""

import numpy as np
import pytest
from PIL import Image

import anovl
from anovl.errors import ImageError, UsageError


@pytest.fixture
def pipe(detector):
    return anovl.pipeline(model=detector)


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))


def test_one_picture(pipe, detector, picture):
    found = pipe(picture, class_name="metal nut", threshold=0.45)
    want = detector.predict(picture, "metal nut", output_size="image").at(0.45)
    assert found["score"] == pytest.approx(want.pred_score, abs=1e-6)
    assert found["label"] == ("anomalous" if want.pred_label else "normal")
    assert [tuple(region["box"].values()) for region in found["regions"]] == [region.box for region in want.regions()]
    assert list(found["regions"][0]["box"]) == ["xmin", "ymin", "xmax", "ymax"]
    assert found["regions"][0]["score"] == pytest.approx(want.regions()[0].peak, abs=1e-6)
    np.testing.assert_array_equal(np.asarray(found["mask"]) == 255, want.mask())
    assert found["heatmap"].size == picture.size
    np.testing.assert_allclose(found["anomaly_map"], want.anomaly_map, atol=1e-6)


def test_a_list_in_order_and_the_options_of_predict(pipe, detector, picture, tmp_path):
    picture.save(tmp_path / "a.png")
    found = pipe([str(tmp_path / "a.png"), picture.rotate(90)], class_name="nut", adapt=True, seed=2, batch_size=1)
    wanted = [detector.predict(one, "nut", adapt=True, seed=2) for one in (picture, picture.rotate(90))]
    assert [one["score"] for one in found] == pytest.approx([one.pred_score for one in wanted], abs=1e-6)
    assert pipe([], class_name="nut") == []


def test_by_name():
    pipe = anovl.pipeline("zero-shot-anomaly-detection", model="mini", device="cpu", local_files_only=True)
    assert pipe.model.backbone.name == "mini"


def test_mistakes(pipe, detector, picture, tmp_path):
    with pytest.raises(UsageError, match="unknown task 'zero-shot-object-detection'"):
        anovl.pipeline("zero-shot-object-detection", model=detector)
    with pytest.raises(UsageError, match="the model is loaded already, device cannot change it"):
        anovl.pipeline(model=detector, device="cpu")
    with pytest.raises(UsageError, match=r"got a URL .* nothing is downloaded"):
        pipe([picture, "https://example.org/nut.png"], class_name="nut")
    with pytest.raises(UsageError, match="expected a picture or a list of pictures, got int"):
        pipe(7, class_name="nut")
    with pytest.raises(ImageError, match="no such file"):
        pipe(tmp_path / "gone.png", class_name="nut")
