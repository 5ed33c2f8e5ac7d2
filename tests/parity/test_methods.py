"""Agreement of the compared systems with anomalib's WinCLIP and the golden ablations, through the methods, to 1e-5.

Another set with the same keys and other sizes runs through the same tests: ANOVL_GOLDEN_DIR=folder.
"""

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from anovl.config import recipe
from anovl.core.prompts import build_prompts
from anovl.core.scoring import text_features, to_image_size
from anovl.methods import make_method
from anovl.methods.winclip import ANOMALIB_WORDING, window_tokens

ROWS = {"qkv": "qkv", "v-last": "v_last", "vv-last": "vv_last", "clip_surgery": "vv_last6", "anovl": "vv_all", "clip": "qkv"}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def pixel_values(golden_dir):
    return load_file(golden_dir / "released.safetensors")["pixel_values"]


@pytest.mark.parametrize("name", ROWS)
@torch.inference_mode()
def test_patch_tokens_of_the_methods(name, golden_backbone, golden_dir, pixel_values):
    expected = load_file(golden_dir / "ablations.safetensors")[f"patch_tokens/{ROWS[name]}"]
    close(make_method(name, golden_backbone, recipe()).encoder(pixel_values)[1], expected)


@pytest.fixture(scope="module")
def anomalib(golden_dir):
    return load_file(golden_dir / "winclip.safetensors")


@pytest.fixture(scope="module")
def winclip(golden_backbone):
    return make_method("winclip", golden_backbone, recipe())


@pytest.fixture(scope="module")
def embeddings(golden_backbone):
    prompts = build_prompts("bottle", ANOMALIB_WORDING)
    return golden_backbone.encode_text(prompts.normal), golden_backbone.encode_text(prompts.abnormal)


def test_winclip_prompts(golden_dir):
    expected = json.loads((golden_dir / "winclip_prompts.json").read_text())
    prompts = build_prompts("bottle", ANOMALIB_WORDING)
    assert Counter(prompts.normal) == Counter(expected["normal"])
    assert Counter(prompts.abnormal) == Counter(expected["abnormal"])
    assert (len(prompts.normal), len(prompts.abnormal)) == (147, 84)


def test_winclip_text(embeddings, anomalib):
    close(torch.stack([state.mean(dim=0) for state in embeddings]), anomalib["text_embeddings"])


@torch.inference_mode()
def test_winclip_embeddings(winclip, anomalib, pixel_values):
    close(winclip.encoder.encode_class(pixel_values), anomalib["image_embedding"])
    for side, tokens in zip((2, 3), window_tokens(winclip.encoder, pixel_values), strict=True):
        close(tokens, anomalib[f"window_embeddings_{side}x{side}"])


@torch.inference_mode()
def test_winclip_scores(winclip, embeddings, anomalib, pixel_values):
    scores = winclip.score(pixel_values, text_features(*embeddings))
    close(scores.image_score, anomalib["image_score"])
    close(to_image_size(scores.patch_scores, pixel_values.shape[-2:], align_corners=False), anomalib["anomaly_map"])
