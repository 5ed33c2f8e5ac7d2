"""Agreement with the authors' released code on the golden tensors, through the public path, to 1e-5.

Another set with the same keys and other sizes runs through the same tests: ANOVL_GOLDEN_DIR=folder.
"""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from anovl import AnoVL
from anovl.config import RECIPES
from anovl.core.adapter import Adapter, Start
from anovl.core.prompts import build_prompts
from anovl.core.scoring import TextFeatures, anomaly_score, text_features
from anovl.data.sources import SourceItem
from anovl.results import ImageScores

TOLERANCE = {"atol": 1e-5, "rtol": 0}
ABLATIONS = {"qkv": ("qkv", None), "v_last": ("v", 1), "vv_last": ("vv", 1), "vv_last6": ("vv", 6), "vv_all": ("vv", None)}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.fixture(scope="module")
def released(golden_dir):
    return load_file(golden_dir / "released.safetensors")


@pytest.fixture(scope="module")
def sentences(golden_dir):
    return json.loads((golden_dir / "released_prompts.json").read_text())


@pytest.fixture(scope="module")
def ours(golden_backbone, tmp_path_factory):
    return AnoVL(golden_backbone, recipe="released", cache_dir=tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def predictions(ours, released):
    """All golden images in one batch."""
    images = [released[key].numpy() for key in sorted(released) if key.startswith("image/")]
    return list(ours.stream(images, "bottle", batch_size=len(images)))


def test_prompts_to_the_letter(sentences):
    for class_name, states in sentences.items():
        prompts = build_prompts(class_name, style="released")
        assert list(prompts.normal) == states["normal"]
        assert list(prompts.abnormal) == states["abnormal"]
        assert len(prompts.normal) == 462


def test_pixel_values(ours, released):
    for k, expected in enumerate(released["pixel_values"]):
        close(ours.preprocess(Image.fromarray(released[f"image/{k}"].numpy())), expected)


def test_class_token_and_patch_tokens(ours, released):
    class_token, patch_tokens = ours.encode(released["pixel_values"])
    close(class_token, released["class_token"])
    close(patch_tokens, released["patch_tokens"])


@pytest.mark.parametrize("row", ABLATIONS)
def test_patch_tokens_of_the_ablations(row, golden_backbone, golden_dir, released):
    expected = load_file(golden_dir / "ablations.safetensors")[f"patch_tokens/{row}"]
    attention, layers = ABLATIONS[row]
    with torch.inference_mode():
        class_token, tokens = golden_backbone.encoder(attention, layers)(released["pixel_values"])
    close(tokens, expected)
    close(class_token, released["class_token"])


def test_text_prototypes_and_tokens(golden_backbone, released, sentences):
    for class_name in sentences:
        prompts = build_prompts(class_name, style="released")
        features = text_features(golden_backbone.encode_text(prompts.normal), golden_backbone.encode_text(prompts.abnormal))
        close(features.prototypes, released[f"text_prototypes/{class_name}"])
        if f"text_tokens/{class_name}" in released:
            close(features.tokens, released[f"text_tokens/{class_name}"])


def test_image_score_of_the_class_token(ours, released):
    class_token, _ = ours.encode(released["pixel_values"])
    scores = anomaly_score(class_token, released["text_prototypes/bottle"], 1.0)
    close(scores, torch.cat([released[f"image_score/{k}"] for k in range(len(scores))]))


def test_image_score_over_22_views(predictions, released):
    for k, prediction in enumerate(predictions):
        close(torch.tensor([prediction.pred_score]), released[f"image_score_22views/{k}"])


def test_patch_scores_and_map(predictions, released):
    for k, prediction in enumerate(predictions):
        close(torch.from_numpy(prediction.patch_scores), released[f"tfa_patch_scores/{k}"])
        close(torch.from_numpy(prediction.anomaly_map), released[f"tfa_map/{k}"])


def bottle_adapter(released, settings, start):
    return Adapter(TextFeatures(released["text_prototypes/bottle"], released["text_tokens/bottle"]), settings, start)


@pytest.mark.parametrize("k", range(3))
def test_adaptation_of_the_released_code(k, ours, released):
    settings = RECIPES["released"].adaptation
    start = Start(*(released[f"tta_{name}/{k}"] for name in ("init_weight", "init_bias", "noise")))
    result = bottle_adapter(released, settings, start).run(released["patch_tokens"][k : k + 1])
    close(result.losses[0].double(), released[f"tta_losses/{k}"])
    grid = torch.sigmoid(result.similarity).view_as(released[f"tta_patch_scores/{k}"][None])
    close(grid[0], released[f"tta_patch_scores/{k}"])
    job = ours.job("bottle", adapt=True)
    item = SourceItem(released[f"image/{k}"].numpy(), None, "image")
    prediction = job.finish(item, (240, 240), ImageScores(np.float32(0.5), grid[0].numpy()), {})
    close(torch.from_numpy(prediction.anomaly_map), released[f"tta_map/{k}"])


@pytest.mark.parametrize("k", range(3))
def test_adaptation_of_the_paper(k, golden_dir, released):
    golden = load_file(golden_dir / "ablations.safetensors")
    start = Start(released["text_tokens/bottle"], None, golden[f"paper_tta_noise/{k}"])
    adapter, tokens = bottle_adapter(released, RECIPES["paper"].adaptation, start), released["patch_tokens"][k : k + 1]
    result = adapter.run(tokens)
    close(result.losses[0].double(), golden[f"paper_tta_losses/{k}"])
    close(adapter._fit(adapter._images(tokens))[0][0], golden[f"paper_tta_weight/{k}"])
    close(torch.sigmoid(result.similarity).view_as(golden[f"paper_tta_patch_scores/{k}"]), golden[f"paper_tta_patch_scores/{k}"])
