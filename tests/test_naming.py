"""Names for defects: what the sentences are, what a region is called, and that scores stay as they are."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from anovl.cli import app
from anovl.cli.words import read_names
from anovl.config import DEFECT_NAMES
from anovl.core.prompts import Wording
from anovl.core.scoring import TextFeatures, name_directions
from anovl.data.sources import SourceItem
from anovl.detector import AnoVL
from anovl.engine import local
from anovl.errors import UsageError
from anovl.naming import name_prompts, vocabulary
from anovl.results import Prediction
from anovl.server.hosting import Torch, Words

NAMES = ("scratch", "oil stain", "hole")
WORDING = Wording(templates=("a {domain} of a {object}", "the {object}"), domain_words=("photo",), defects=("dent",))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("scratch, oil stain,", ("scratch", "oil stain")),
        (["hole ", "cut"], ("hole", "cut")),
        ("default", DEFECT_NAMES),
        (["default"], DEFECT_NAMES),
        ("", ()),
        ([], ()),
    ],
)
def test_vocabularies(given, expected):
    assert vocabulary(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("scratch", "expected 2 to 32 words"),
        ([f"word {i}" for i in range(33)], "got 33 of them"),
        ("cut,hole,cut", "'cut' several times"),
    ],
)
def test_vocabularies_that_are_not_valid(given, message):
    with pytest.raises(UsageError, match=message):
        vocabulary(given)


def test_names_from_the_command_line(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("scratch\n\n  oil stain\n", encoding="utf-8")
    assert read_names(str(path)) == ("scratch", "oil stain")
    assert read_names(None) == ()
    for wrong, message in (("scratches", "no such file"), ("bad\0name", "no such file")):
        with pytest.raises(UsageError, match=message):
            read_names(wrong)
    path.write_text("\n")
    with pytest.raises(UsageError, match="holds no word"):
        read_names(str(path))


def test_sentences_of_all_names_in_turns():
    prompts = name_prompts("metal_nut", WORDING, NAMES, style="paper")
    assert prompts.normal == ("a photo of a normal metal nut", "the normal metal nut")
    assert prompts.abnormal == (
        "a photo of a metal nut with a scratch",
        "a photo of a metal nut with an oil stain",
        "a photo of a metal nut with a hole",
        "the metal nut with a scratch",
        "the metal nut with an oil stain",
        "the metal nut with a hole",
    )
    with pytest.raises(UsageError, match="braces"):
        name_prompts("nut", WORDING, ("a{b}", "hole"), style="paper")


def test_directions_tell_names_apart_not_what_they_share():
    common, one, two = torch.eye(3)
    normal, first, second = common, F.normalize(common + one, dim=0), F.normalize(common + two, dim=0)
    tokens = torch.stack([normal, normal, first, second, first, second])  # two templates, two names
    found = name_directions(TextFeatures(tokens[:2], tokens), 2)
    assert torch.allclose(found, torch.tensor([[0, 1, -1], [0, -1, 1]]) / 2**0.5, atol=1e-6)


def test_a_region_is_named_by_the_patches_under_its_pixels():
    anomaly_map = np.zeros((4, 8), np.float32)
    anomaly_map[0:2, 3:7] = 0.9  # one pixel column on the first patch, three on the second
    anomaly_map[3, 0] = 0.7
    name_scores = np.zeros((2, 2, 4), np.float32)
    name_scores[0, 0] = [0.4, 0.0, -0.4, 0.1]
    name_scores[0, 1] = [0.0, 0.2, -0.4, 0.1]
    name_scores[1, 0] = [0.0, 0.0, 0.5, 0.25]
    fields = {"image_path": None, "image_size": (4, 8), "class_name": "nut", "pred_score": 0.5}
    patches = np.zeros((2, 2), np.float32)
    prediction = Prediction(
        **fields, anomaly_map=anomaly_map, patch_scores=patches, names=("a", "b", "c", "d"), name_scores=name_scores
    )
    wide, dot = prediction.regions()
    assert wide.names == (("b", pytest.approx(0.15)), ("a", pytest.approx(0.1)), ("d", pytest.approx(0.1)))
    assert (wide.name, wide.margin) == ("b", pytest.approx(0.05))
    assert (dot.name, dot.margin) == ("c", pytest.approx(0.25))
    row = json.loads(json.dumps(prediction.to_dict()))["regions"][1]
    assert (row["name"], row["margin"]) == ("c", 0.25)
    assert row["names"] == [
        {"name": "c", "similarity": 0.5},
        {"name": "d", "similarity": 0.25},
        {"name": "a", "similarity": 0.0},
    ]
    assert prediction.at(0.8).regions()[0] == wide
    for wrong in ({"names": ("a", "b")}, {"names": ()}, {"name_scores": None}):
        with pytest.raises(UsageError, match="name_scores"):
            replace(prediction, **wrong)


def test_patch_similarities_are_cosines_of_local_tokens(detector, pictures):
    picture = pictures / "a.png"
    plain = detector.predict(picture, "nut")
    named = detector.predict(picture, "nut", names=NAMES, wording=WORDING)
    assert (plain.names, plain.name_scores, named.names) == ((), None, NAMES)
    texts = []
    for name in ("a scratch", "an oil stain", "a hole"):
        embeddings = detector.backbone.encode_text([f"a photo of a nut with {name}", f"the nut with {name}"])
        texts.append(F.normalize(F.normalize(embeddings.float(), dim=-1).mean(dim=0), dim=0))
    apart = torch.stack(texts) - torch.stack(texts).mean(dim=0)
    item = detector.job("nut").load(picture)[0]
    tokens = detector.encode(detector.preprocess(item)[None])[1][0]
    expected = F.normalize(tokens, dim=-1) @ F.normalize(apart, dim=-1).T
    assert np.abs(named.name_scores.reshape(-1, 3) - expected.numpy()).max() < 1e-5


def test_scores_stay_and_batches_agree(detector, pictures):
    source = [pictures / "a.png", pictures / "b.jpg"]
    plain = list(detector.stream(source, "nut", adapt=True))
    named = list(detector.stream(source, "nut", adapt=True, names="default", batch_size=2))
    alone = detector.predict(source[1], "nut", names="default")
    for one, other in zip(plain, named, strict=True):
        assert one.pred_score == other.pred_score
        assert np.array_equal(one.anomaly_map, other.anomaly_map)
    assert np.abs(named[1].name_scores - alone.name_scores).max() < 1e-5
    assert len(alone.regions(0.0)[0].names) == 3


def test_methods_without_local_tokens_refuse(detector):
    for method in ("winclip", "transmm"):
        with pytest.raises(UsageError, match="no local tokens"):
            detector.with_method(method).job("nut", names=NAMES)
    assert detector.with_method("clip").job("nut", names=NAMES).text.names.shape[0] == 3


def test_a_process_without_the_model_names_what_another_scored(detector, pictures):
    job = detector.job("nut", names=NAMES)
    sent = pickle.dumps(job.without_model())
    light = pickle.loads(sent)  # noqa: S301 -- our own
    picture, size = light.load(pictures / "a.png")
    (scores,) = local.Stacked(job).score([light.preprocess(picture)])
    prediction = light.finish(SourceItem(None, None, "a"), size, scores, {})
    assert prediction.regions(0.0) == detector.predict(pictures / "a.png", "nut", names=NAMES).regions(0.0)


def test_text_of_names_is_encoded_once(golden_backbone, tmp_path, monkeypatch):
    detector = AnoVL(golden_backbone, cache_dir=tmp_path)
    first = detector.job("nut", names=NAMES).text.names
    again = AnoVL(golden_backbone, cache_dir=tmp_path)
    monkeypatch.setattr(type(golden_backbone), "encode_text", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(again.job("nut", names=NAMES).text.names, first)


def test_a_folder_of_named_regions(golden_name, pictures, tmp_path):
    out = tmp_path / "out"
    words = "scratch,oil stain,hole"
    options = ["--class-name", "nut", "--model", golden_name, "--threshold", "0", "--names", words, "--format", "parquet"]
    result = CliRunner().invoke(app, ["predict", str(pictures), "-o", str(out), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert json.loads((out / "run.json").read_text())["settings"]["names"] == list(NAMES)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    (region,) = lines[0]["regions"]  # at threshold 0 the whole picture
    assert region["name"] == region["names"][0]["name"]
    assert region["margin"] == region["names"][0]["similarity"] - region["names"][1]["similarity"] > 0
    assert {one["name"] for one in region["names"]} == set(NAMES)
    assert pq.read_table(out / "predictions.parquet").to_pylist()[0]["regions"] == [region]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--names", "scratch"], "words with commas between"),
        (["--names", "cut,hole", "--method", "winclip"], "no local tokens"),
        (["--names", "cut,ho{le"], "braces"),
        (["--names", "cut,hole", "--model", "part.onnx"], "cannot name defects"),
    ],
)
def test_what_cannot_be_named_is_told_before_a_model_is_loaded(pictures, arguments, message):
    command = ["predict", str(pictures), "--class-name", "nut", "--model", "mini", "--dry-run", *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())


def test_a_service_names_what_it_is_asked_to(detector, pictures):
    model = Torch(detector)
    job = model.job(Words(class_name="nut", names=NAMES))
    picture, size = job.load(pictures / "a.png")
    (scores,) = job.score([job.preprocess(picture)])
    row = job.finish(SourceItem(None, None, "a"), size, scores, {}).at(0.0).to_dict()
    assert row["regions"][0]["name"] in NAMES
