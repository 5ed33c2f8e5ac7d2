"""The embedded models find what is drawn: measured on seeds that no training and no choice has seen."""

import socket

import numpy as np
import pytest
from PIL import Image

from anovl import AnoVL
from anovl.data.synthetic import CLASSES, draw
from anovl.metrics import auroc

SEED = 777_000


@pytest.fixture(scope="module")
def mini():
    return AnoVL.from_pretrained("mini", local_files_only=True)


@pytest.fixture(scope="module")
def mini_fine():
    return AnoVL.from_pretrained("mini-fine", local_files_only=True)


def measured(mini, names, per_class=8):
    """(image AUROC, pixel AUROC), means over the classes."""
    figures = []
    for name in names:
        kinds = CLASSES[name].defects
        samples = [draw(name, SEED + i, defect=kinds[(3 * i) % len(kinds)] if i % 2 else None) for i in range(per_class)]
        predictions = [mini.predict(Image.fromarray(sample.image), name) for sample in samples]
        figures.append(
            (
                auroc([p.pred_score for p in predictions], [s.defect is not None for s in samples]),
                auroc(np.stack([p.anomaly_map for p in predictions]), np.stack([s.mask for s in samples])),
            )
        )
    return np.mean(figures, axis=0)


@pytest.mark.parametrize("model", ["mini", "mini_fine"])
def test_seen_classes(model, request):
    image, pixel = measured(request.getfixturevalue(model), ("gear", "bottle", "cable", "leather", "brushed metal", "fabric"))
    assert image > 0.8
    assert pixel > 0.93


def test_finer_patches(mini_fine):
    assert mini_fine.backbone.encoder().grid == (20, 20)
    nuts = measured(mini_fine, ["metal nut"], per_class=40)
    assert nuts[0] > 0.75


def test_held_out_classes(mini):
    image, pixel = measured(mini, [name for name, info in CLASSES.items() if info.held_out])
    assert image > 0.8
    assert pixel > 0.94


def test_the_model_trained_without_masks():
    captions = AnoVL.from_pretrained("mini-captions", local_files_only=True)
    image, pixel = measured(captions, ("gear", "bottle", "cable", "leather", "brushed metal", "fabric"))
    assert image > 0.7
    assert pixel > 0.88
    assert "no masks" in captions.backbone.describe()["note"]


def test_runs_without_network_and_says_what_it_is(mini, monkeypatch):
    def no_network(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    again = AnoVL.from_pretrained("mini")
    assert again.recipe.name == "mini"
    assert "drawn" in again.backbone.describe()["note"]
    picture = Image.fromarray(draw("washer", SEED).image)
    assert again.predict(picture, "washer").pred_score == pytest.approx(mini.predict(picture, "washer").pred_score, abs=1e-6)


def test_any_class_name_can_be_read(mini):
    picture = Image.fromarray(draw("leather", SEED, defect="hole").image)
    for name in ("hazelnut", "Größe 零件", "x"):
        assert np.isfinite(mini.predict(picture, name).anomaly_map).all()
