"""Agreement with the published evaluation codes on the golden evaluation set, to 1e-6.

The authors' own code gives the curves and PRO from 200 thresholds, MVTec's gives the exact PRO.
"""

from __future__ import annotations

import pytest
from safetensors.numpy import load_file

from anovl.metrics import ImageMetrics, PixelMetrics


@pytest.fixture(scope="module")
def golden(golden_dir):
    return load_file(golden_dir / "released.safetensors")


@pytest.mark.parametrize("memory", [2**29, 2**18])
def test_pixels(golden, memory):
    metrics = PixelMetrics(memory=memory, pro="legacy-200")
    metrics.update(golden["metrics/maps"], golden["metrics/masks"])
    figures = metrics.compute()
    found = (figures.auroc, figures.f1_max, figures.ap, figures.pro)
    assert found == pytest.approx(golden["metrics/values"][:4], abs=1e-6)


@pytest.mark.parametrize("limit", ["0.05", "0.3", "1.0"])
def test_exact_pro(golden, limit):
    metrics = PixelMetrics(pro_limit=float(limit))
    metrics.update(golden["metrics/maps"], golden["metrics/masks"])
    assert metrics.compute().pro == pytest.approx(golden[f"metrics/aupro_{limit}"][0], abs=1e-6)


def test_images(golden):
    metrics = ImageMetrics()
    metrics.update(golden["metrics/maps"].max(axis=(1, 2)), golden["metrics/masks"].any(axis=(1, 2)))
    figures = metrics.compute()
    assert (figures.auroc, figures.f1_max, figures.ap) == pytest.approx(golden["metrics/values"][4:], abs=1e-6)
