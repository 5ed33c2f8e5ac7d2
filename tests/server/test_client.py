"""anovl.Client against a service."""

import numpy as np
import pytest
from PIL import Image

import anovl


@pytest.mark.parametrize("map_format", ["npy", "png16"])
def test_round_trip(serving, png, tmp_path, map_format):
    server = serving()
    client = anovl.Client(server.url + "/")
    path = tmp_path / "größe.png"
    path.write_bytes(png(51, (12, 10)))
    array = np.full((6, 5, 3), 102, np.uint8)
    answer = client.predict(
        [path, png(153), array, Image.new("RGB", (3, 3), (204, 204, 204))],
        "metal nut",
        defects=["scratch", "dent"],
        threshold=0.5,
        returns=("score", "regions", "map", "overlay"),
        map_format=map_format,
    )
    assert [one.filename for one in answer] == ["größe.png", "image1", "image2.png", "image3.png"]
    assert [one.pred_score for one in answer] == [pytest.approx(grey) for grey in (0.2, 0.6, 0.4, 0.8)]
    assert [one.pred_label for one in answer] == [False, True, False, True]
    for one, size in zip(answer, [(10, 12), (8, 8), (6, 5), (3, 3)], strict=True):
        assert one.image_size == one.map_size == size == one.anomaly_map.shape
        assert one.anomaly_map.dtype == np.float32
        assert np.abs(one.anomaly_map - one.pred_score).max() < 1e-5
        assert one.overlay.startswith(b"\x89PNG")
        assert len(one.regions) == one.pred_label
    assert answer[1].regions[0] == anovl.Region((0, 0, 8, 8), 64, pytest.approx(0.6), (3.5, 3.5))


def test_names(serving, png):
    client = anovl.Client(serving().url)
    (one,) = client.predict(png(204), names=["scratch", "hole", "oil stain"])
    (region,) = one.regions
    assert region.names == (("oil stain", 0.5), ("hole", 0.25), ("scratch", 0.0))
    assert (region.name, region.margin) == ("oil stain", 0.25)
    assert client.predict(png(204), names=["default"])[0].regions[0].name == "misplaced part"
    with pytest.raises(anovl.client.ServiceError, match="expected 2 to 32 words") as refused:
        client.predict(png(204), names=["scratch"])
    assert refused.value.status == 422


def test_scores_alone(serving, png):
    client = anovl.Client(serving().url)
    (one,) = client.predict(png(51), returns=["score"])
    assert (one.regions, one.anomaly_map, one.overlay) == (None, None, None)
    assert client.ready()
    assert client.info()["default_model"] == "grey"


def test_refusals(serving, png):
    client = anovl.Client(serving().url)
    with pytest.raises(anovl.ServiceError, match="415: image0: not an image") as error:
        client.predict(b"text")
    assert (error.value.status, bool(error.value.request_id)) == (415, True)
    with pytest.raises(anovl.ServiceError, match="422: unknown model 'other'"):
        client.predict(png(), model="other")
    with pytest.raises(anovl.ServiceError, match="422: files: expected at least one"):
        client.predict([])
