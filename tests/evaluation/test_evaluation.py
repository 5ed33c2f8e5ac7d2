"""`anovl.evaluate` on drawn pictures: figures, seeds, defects, resolution, resuming, what it refuses."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import anovl
from anovl import AnoVL, Variant
from anovl.data.datasets import read_mask
from anovl.data.synthetic.layout import write_dataset
from anovl.errors import AnovlError, ImageError, NothingToDoError, OutputError, UsageError
from anovl.evaluation import FIGURES
from anovl.evaluation.outputs import write_outputs
from anovl.evaluation.scoring import Scored, pick


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, ["washer", "tile"], per_class=8, size=96)
    return folder


@pytest.fixture(scope="module")
def dataset(root):
    return anovl.datasets.load("synthetic", root)


@pytest.fixture(scope="module")
def mini():
    return AnoVL.from_pretrained("mini", device="cpu")


@pytest.fixture(scope="module")
def report(mini, dataset):
    return anovl.evaluate(mini, dataset, resolution="original", bootstrap=20)


def maps_of(mini, dataset, name):
    """Predictions one by one, by the public way."""
    (category,) = [one for one in dataset.categories if one.name == name]
    made = [mini.predict(sample.image, category.class_name, domain=category.kind) for sample in category.test]
    masks = [read_mask(sample, one.image_size) for sample, one in zip(category.test, made, strict=True)]
    return made, masks, [sample.anomalous for sample in category.test]


@pytest.mark.parametrize("name", ["washer", "tile"])
def test_figures_are_those_of_the_predictions(report, mini, dataset, name):
    made, masks, labels = maps_of(mini, dataset, name)
    figures = report.cells["anovl", name].measured.figures
    scores = [one.pred_score for one in made]
    values, truth = np.stack([one.anomaly_map for one in made]).ravel(), np.stack(masks).ravel()
    assert figures["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert figures["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
    assert figures["pixel_auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-6)
    assert figures["pixel_ap"] == pytest.approx(average_precision_score(truth, values), abs=1e-6)
    assert 0 < figures["pixel_pro"] <= 1
    assert 0 < figures["pixel_f1max"] <= 1


def test_the_mean_is_over_categories_and_by_kind(report):
    figures = [report.cells["anovl", name].measured.figures for name in ("tile", "washer")]
    assert report.mean("anovl")["pixel_auroc"] == pytest.approx(np.mean([one["pixel_auroc"] for one in figures]))
    assert report.mean("anovl", "texture")["pixel_auroc"] == figures[0]["pixel_auroc"]
    assert report.std("anovl") == {}


def test_the_report_holds_what_scripts_read(report):
    data = json.loads(json.dumps(report.to_dict()))
    assert set(FIGURES) <= data["mean"].keys()
    assert set(data["categories"]) == {"washer", "tile"}
    for category in data["categories"].values():
        assert all(0 <= category[name] <= 1 for name in FIGURES)
        assert category["images"] == 8
        low, high = category["intervals"]["image_auroc"]
        assert low <= category["image_auroc"] <= high
    assert data["images"] == 16


def test_kinds_of_defects_are_measured_against_all_good_images(report, dataset, mini):
    made, _, _ = maps_of(mini, dataset, "washer")
    (category,) = [one for one in dataset.categories if one.name == "washer"]
    by_defect = report.cells["anovl", "washer"].measured.by_defect
    kinds = {sample.defect for sample in category.test if sample.anomalous}
    assert set(by_defect) == kinds
    kind = min(kinds)
    some = [(s.anomalous, p.pred_score) for s, p in zip(category.test, made, strict=True) if s.defect in ("good", kind)]
    assert by_defect[kind]["image_auroc"] == pytest.approx(roc_auc_score(*zip(*some, strict=True)), abs=1e-6)


def test_seeds_give_mean_and_spread(mini, dataset):
    both = anovl.evaluate(mini, dataset, adapt=True, seeds=(0, 1), limit=4)
    alone = [anovl.evaluate(mini, dataset, adapt=True, seeds=seed, limit=4) for seed in (0, 1)]
    values = [one.mean("anovl+tta")["pixel_pro"] for one in alone]
    assert both.mean("anovl+tta")["pixel_pro"] == pytest.approx(np.mean(values), abs=1e-6)
    assert both.std("anovl+tta")["pixel_pro"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert values[0] != values[1]


def test_input_resolution_resizes_maps_and_masks(mini, dataset, report):
    small = anovl.evaluate(mini, dataset)
    assert small.mean("anovl")["image_auroc"] == report.mean("anovl")["image_auroc"]
    assert small.mean("anovl")["pixel_auroc"] != report.mean("anovl")["pixel_auroc"]
    assert small.mean("anovl")["pixel_auroc"] == pytest.approx(report.mean("anovl")["pixel_auroc"], abs=0.02)


def test_methods_side_by_side(mini, dataset):
    variants = [Variant(name=name, detector=mini.with_method(name)) for name in ("anovl", "clip", "winclip")]
    data = anovl.evaluate(variants, dataset, limit=4).to_dict()
    assert data["method"] == "anovl"
    assert [other["method"] for other in data["others"]] == ["clip", "winclip"]
    assert len({data["mean"]["pixel_auroc"], *(other["mean"]["pixel_auroc"] for other in data["others"])}) == 3


def test_what_is_scored_is_not_scored_again(mini, dataset, tmp_path, monkeypatch):
    whole = anovl.evaluate(mini, dataset, folder=tmp_path / "a", batch_size=3)
    anovl.evaluate(mini, dataset, folder=tmp_path / "b", batch_size=3)
    path = tmp_path / "b" / "scores" / "anovl" / "washer.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:100])  # as a kill leaves it: one whole batch, a torn line
    scored = []
    score = type(mini.method).score

    def counted(method, pixels, *rest):
        scored.append(len(pixels))
        return score(method, pixels, *rest)

    monkeypatch.setattr(type(mini.method), "score", counted)
    again = anovl.evaluate(mini, dataset, folder=tmp_path / "b", resume=True, batch_size=3)
    assert sum(scored) == len(lines) - 3
    assert again.to_dict() == whole.to_dict()
    assert path.read_text() == "".join(lines)


def test_scores_survive_the_file_to_the_bit():
    rng = np.random.default_rng(0)
    one = Scored("a/b.png", (3, 4), rng.random(2, dtype=np.float32), rng.random((2, 5, 6), dtype=np.float32))
    back = Scored.from_row(json.loads(json.dumps(one.to_row())))
    assert (back.key, back.size) == (one.key, one.size)
    np.testing.assert_array_equal(back.patch_scores, one.patch_scores)
    np.testing.assert_array_equal(back.image_scores, one.image_scores)


def test_another_run_in_the_folder_is_refused(mini, dataset, tmp_path):
    anovl.evaluate(mini, dataset, folder=tmp_path, limit=2)
    with pytest.raises(UsageError, match="already holds a run"):
        anovl.evaluate(mini, dataset, folder=tmp_path, limit=2)
    with pytest.raises(UsageError, match="images: was 4, is 8"):
        anovl.evaluate(mini, dataset, folder=tmp_path, limit=4, resume=True)
    path = tmp_path / "scores" / "anovl" / "tile.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    with pytest.raises(OutputError, match=r"tile\.jsonl: scores of other images"):
        anovl.evaluate(mini, dataset, folder=tmp_path, limit=2, resume=True)
    path.write_text('{"image": 3}\n')
    with pytest.raises(OutputError, match=r"tile\.jsonl: not a file of scores"):
        anovl.evaluate(mini, dataset, folder=tmp_path, limit=2, resume=True)


def test_the_folder_is_held_while_a_run_writes_there(mini, dataset, tmp_path):
    refused = []

    def again():
        if not refused:
            with pytest.raises(OutputError, match="another run is writing there") as caught:
                anovl.evaluate(mini, dataset, folder=tmp_path, limit=2, resume=True)
            refused.append(caught)

    anovl.evaluate(mini, dataset, folder=tmp_path, limit=2, on_image=again)
    assert refused
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "scores"}


def test_a_broken_image_ends_the_run(mini, tmp_path):
    write_dataset(tmp_path, ["washer"], per_class=2, size=96)
    dataset = anovl.datasets.load("synthetic", tmp_path)
    dataset.categories[0].test[0].image.write_bytes(b"not an image")
    with pytest.raises(AnovlError, match=r"washer/test/.*: .*mend it") as caught:
        anovl.evaluate(mini, dataset)
    assert isinstance(caught.value.__cause__, ImageError)
    assert caught.value.exit_code == 1


def test_one_kind_of_image_gives_no_number_and_a_reason(mini, tmp_path):
    write_dataset(tmp_path, ["washer"], per_class=1, size=96)  # a good one
    report = anovl.evaluate(mini, anovl.datasets.load("synthetic", tmp_path))
    measured = report.cells["anovl", "washer"].measured
    assert measured.figures == dict.fromkeys(FIGURES)
    assert "none is anomalous" in measured.reasons["image_auroc"]
    assert set(measured.reasons) == set(FIGURES)
    write_outputs(report, tmp_path / "out")
    assert "none is anomalous" in (tmp_path / "out" / "report.html").read_text()


def test_pictures_without_labels_are_refused(mini, pictures):
    with pytest.raises(NothingToDoError, match="no image with a label"):
        anovl.evaluate(mini, anovl.datasets.load("folder", pictures, class_name="thing"))


def test_settings_out_of_range(mini, dataset):
    with pytest.raises(UsageError, match="resolution"):
        anovl.evaluate(mini, dataset, resolution="full")
    with pytest.raises(UsageError, match="limit"):
        anovl.evaluate(mini, dataset, limit=0)
    with pytest.raises(UsageError, match="a name of its own"):
        anovl.evaluate([Variant(name="a", detector=mini)] * 2, dataset)
    with pytest.raises(UsageError, match="no test-time adaptation"):
        Variant(name="a", detector=mini.with_method("winclip"), adapt=True)
    with pytest.raises(UsageError, match="a name that can be a folder's"):
        Variant(name="a/b", detector=mini)


@pytest.mark.parametrize(("limit", "good", "bad"), [(4, 2, 2), (5, 2, 3), (1, 0, 1), (8, 4, 4), (None, 4, 4), (99, 4, 4)])
def test_a_limit_takes_half_good_ones(dataset, limit, good, bad):
    chosen = pick(dataset.categories[0].test, limit)
    assert [sum(not one.anomalous for one in chosen), sum(bool(one.anomalous) for one in chosen)] == [good, bad]
    assert list(chosen) == [one for one in dataset.categories[0].test if one in chosen]


def test_the_outputs(report, tmp_path):
    page = write_outputs(report, tmp_path, versions={"anovl": "x"})
    text = page.read_text()
    assert text.count("<svg") == 4
    assert text.count('class="card"') == 8
    assert "://" not in text.replace("http://www.w3.org", "")
    rows = (tmp_path / "report.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 + 1
    assert rows[-1].startswith("anovl,mean,,16,")
    images = (tmp_path / "images.csv").read_text().splitlines()
    assert len(images) == 1 + 16
    assert json.loads((tmp_path / "report.json").read_text())["versions"] == {"anovl": "x"}
