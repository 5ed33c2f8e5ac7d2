"""The paper's tables as data, and the parts behind `anovl reproduce`."""

import json

import pytest

import anovl
from anovl.data.synthetic.layout import write_dataset
from anovl.errors import UnavailableError
from anovl.methods import METHODS, method_class
from anovl.reproduction import TABLES, FullShot, Source, compute_table
from anovl.reproduction.outputs import markdown


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, ["washer", "tile"], per_class=4, train_per_class=4, size=96)
    return anovl.datasets.load("synthetic", folder)


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_number_a_column(name):
    table = TABLES[name]
    labels = [row.label for row in table.rows]
    assert len(set(labels)) == len(labels)
    for row in table.rows:
        assert set(row.published) == set(table.datasets)
        for numbers in row.published.values():
            assert len(numbers) == len(table.columns)
            assert all(number is None or 0 < number[0] <= 100 for number in numbers)
        assert bool(row.method) != bool(row.quoted)
        if row.method:
            assert row.method in METHODS
            assert method_class(row.method).adapts or not row.adapt


def test_a_row_is_what_evaluate_measures(dataset):
    detector = anovl.AnoVL.from_pretrained("mini", device="cpu")
    result = compute_table("table3", Source(dataset, detector), seeds=(0,))
    for label, method in (("with V-V attention (last layer)", "vv-last"), ("with V-V attention (multi-layer)", "anovl")):
        (row,) = [row for row in result.rows if row.label == label]
        mean = anovl.evaluate(detector.with_method(method), dataset).mean(method)
        assert row.values[0][0] == pytest.approx(100 * mean["pixel_auroc"], abs=1e-9)
    assert not result.of_paper
    json.dumps(result.to_dict())


def test_a_backbone_that_cannot_says_why(dataset, tiny_clip):
    backbone = anovl.Backbone.from_clip(tiny_clip("resnet"), anovl.load_backbone("mini").tokenizer, name="tiny")
    result = compute_table("table2", Source(dataset, anovl.AnoVL(backbone)), seeds=(0,))
    reasons = {row.label: row.reason for row in result.rows}
    assert "ResNet" in reasons["WinCLIP"]
    assert reasons["CLIP"] == reasons["Ours"] == ""
    assert "- WinCLIP: " in markdown([result])


@pytest.mark.slow
def test_anomalib_trains_on_all_categories(dataset):
    figures = FullShot(pre_trained=False).figures("Padim", dataset)
    assert 0 <= figures["image_auroc"] <= 1
    assert 0 <= figures["pixel_auroc"] <= 1
    assert figures["pixel_pro"] is None


@pytest.mark.slow
def test_what_training_needs_is_told(dataset, tmp_path):
    with pytest.raises(UnavailableError, match="--dtd FOLDER"):
        FullShot().figures("Draem", dataset)
    write_dataset(tmp_path, ["washer"], per_class=2, size=96)
    with pytest.raises(UnavailableError, match="good training images"):
        FullShot().figures("Padim", anovl.datasets.load("synthetic", tmp_path))


def test_without_anomalib_rows_are_quoted(dataset, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anomalib.models", None)
    detector = anovl.AnoVL.from_pretrained("mini", device="cpu")
    result = compute_table("table6", Source(dataset, detector), seeds=(0,), limit=2, full_shot=FullShot())
    (row,) = [row for row in result.rows if row.label == "PaDiM"]
    assert row.values == (None, None)
    assert "anovl[anomalib]" in row.reason
