"""The detector that users hold, on the golden model."""

import io
import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import anovl
from anovl import AnoVL, ImageLimits
from anovl.config import RECIPES
from anovl.core.prompts import Wording
from anovl.errors import AnovlError, ImageDecodeError, ImageNotFoundError, ImageTooLargeError, UsageError


def drawn(seed=0, size=(70, 50)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_one_image(detector):
    prediction = detector.predict(drawn(), "metal nut")
    assert prediction.image_size == prediction.anomaly_map.shape == (70, 50)
    assert prediction.patch_scores.shape == detector.method.encoder.grid
    assert prediction.class_name == "metal nut"
    assert prediction.image_path is None
    assert prediction.pred_label == (prediction.pred_score >= 0.5)
    assert set(prediction.timings_ms) == {"decode", "resize", "encode", "upsample"}
    json.dumps(prediction.to_dict())


def test_every_kind_of_source_gives_the_same_scores(detector, tmp_path):
    pixels = drawn()
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    sources = [tmp_path / "x.png", str(tmp_path / "x.png"), data, io.BytesIO(data), picture, pixels, pixels / 255.0]
    sources.append(torch.from_numpy(pixels).permute(2, 0, 1))
    scores = [detector.predict(source, "nut").pred_score for source in sources]
    assert max(scores) - min(scores) < 1e-7


def test_alone_in_any_batch_and_order(golden_backbone):
    """Scores to 1e-5, cosines to 1e-6, whatever an image shares its batch with."""
    detector = AnoVL(golden_backbone)
    images = [drawn(seed) for seed in range(13)]
    alone = [detector.predict(image, "nut") for image in images]
    order = np.random.default_rng(1).permutation(13)
    for batch_size in (2, 5, 13):
        for i, prediction in zip(order, detector.stream([images[i] for i in order], "nut", batch_size=batch_size), strict=True):
            assert abs(prediction.pred_score - alone[i].pred_score) < 1e-5
            assert np.abs(prediction.anomaly_map - alone[i].anomaly_map).max() < 1e-5
    text = detector.job("nut").text.prototypes
    pixels = torch.stack([detector.preprocess(Image.fromarray(image)) for image in images])
    together = [F.normalize(tokens, dim=-1) @ text.T for tokens in detector.encode(pixels)]
    for i in range(13):
        single = [F.normalize(tokens, dim=-1) @ text.T for tokens in detector.encode(pixels[i : i + 1])]
        for a, b in zip(together, single, strict=True):
            assert (a[i] - b[0]).abs().max() < 1e-6


def test_preprocess_squashes_and_normalises(golden_backbone):
    detector = AnoVL(replace(golden_backbone, mean=(0.5, 0.2, 0.25), std=(0.25, 0.5, 0.5)))
    height, width = golden_backbone.image_size
    values = detector.preprocess(Image.new("RGB", (50, 20), (255, 51, 0)))
    assert (values.dtype, values.shape) == (torch.float32, (3, height, width))
    assert values.is_contiguous()
    for channel, expected in zip(values, (2.0, 0.0, -0.5), strict=True):
        torch.testing.assert_close(channel, torch.full((height, width), expected), atol=1e-6, rtol=0)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plain = AnoVL(replace(golden_backbone, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))).preprocess(Image.fromarray(pixels))
    np.testing.assert_allclose(plain.numpy() * 255, pixels.transpose(2, 0, 1), atol=1e-4)
    with pytest.raises(UsageError, match=r"expected \[B, H, W, 3\] uint8, got \[1, 3, 64, 64\] float32"):
        detector.job("nut").score(torch.zeros(1, 3, 64, 64))


def test_precision_of_the_run(backbone, golden_backbone):
    """--dtype of the test run against fp32: cosines to 1e-5 in fp32, to 2e-2 in half precision."""
    pixels = torch.stack([AnoVL(golden_backbone).preprocess(Image.fromarray(drawn(seed))) for seed in range(3)])
    text = AnoVL(golden_backbone).job("nut").text.prototypes
    limit = 1e-5 if backbone.dtype == torch.float32 else 2e-2
    for full, own in zip(AnoVL(golden_backbone).encode(pixels), AnoVL(backbone).encode(pixels), strict=True):
        difference = F.normalize(full, dim=-1) @ text.T - F.normalize(own.float().cpu(), dim=-1) @ text.T
        assert difference.abs().max() < limit


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_detector(golden_name, golden_backbone, dtype):
    half = AnoVL.from_pretrained(golden_name, dtype=dtype, device="cpu")
    full = AnoVL(golden_backbone)
    for seed in range(3):
        a, b = half.predict(drawn(seed), "nut"), full.predict(drawn(seed), "nut")
        scale = full.backbone.logit_scale
        for x, y in ((a.pred_score, b.pred_score), (a.patch_scores, b.patch_scores)):
            logits = [np.log(np.asarray(value) / (1 - np.asarray(value))) / scale for value in (x, y)]
            assert np.abs(logits[0] - logits[1]).max() < 2e-2  # difference of two cosines


def test_stream_of_a_folder(detector, pictures):
    predictions = list(detector.stream(pictures, "nut", batch_size=2))
    names = ["a.png", "b.jpg", "e.tif", "deep/c.bmp", "deep/er/d.webp"]
    assert [prediction.image_path for prediction in predictions] == [str(pictures / name) for name in names]
    assert predictions[0].plot().size[1] == 256


def test_stream_with_broken_images(detector, pictures, caplog):
    (pictures / "b.jpg").write_bytes(b"\xff\xd8 broken")
    with pytest.raises(ImageDecodeError, match=r"b\.jpg"):
        list(detector.stream(pictures, "nut"))
    with caplog.at_level(logging.WARNING, "anovl"):
        assert len(list(detector.stream(pictures, "nut", on_error="skip"))) == 4
    assert "b.jpg" in caplog.text
    with pytest.raises(UsageError, match="on_error"):
        list(detector.stream(pictures, "nut", on_error="ignore"))


def test_output_size(golden_backbone):
    assert AnoVL(golden_backbone).predict(drawn(), "nut", output_size="input").anomaly_map.shape == (240, 240)
    released = AnoVL(golden_backbone, recipe=anovl.recipe("released", image_score="class_token"))
    assert released.predict(drawn(), "nut").anomaly_map.shape == (240, 240)
    assert released.predict(drawn(), "nut", output_size="image").anomaly_map.shape == (70, 50)
    with pytest.raises(UsageError, match="output_size"):
        released.predict(drawn(), "nut", output_size="original")


def test_words_change_the_scores(detector):
    base = detector.predict(drawn(), "nut").pred_score
    others = [
        detector.predict(drawn(), "bolt"),
        detector.predict(drawn(), "nut", domain="texture"),
        detector.predict(drawn(), "nut", defects=["scratch"]),
        detector.predict(drawn(), "nut", wording=Wording(states=(("whole {class}", "torn {class}"),))),
    ]
    assert len({base, *(prediction.pred_score for prediction in others)}) == 5


def test_clip_method_uses_plain_prompts_and_ordinary_tokens(golden_backbone):
    clip = AnoVL(golden_backbone, method="clip")
    assert clip.prompts("nut").normal == ("a photo of a normal nut",)
    assert clip.prompts("nut").abnormal == ("a photo of an abnormal nut",)
    pixels = clip.preprocess(Image.fromarray(drawn()))[None]
    expected = golden_backbone.encoder("qkv")(pixels)[1]
    torch.testing.assert_close(clip.encode(pixels)[1], expected)
    assert clip.predict(drawn(), "nut").pred_score != AnoVL(golden_backbone).predict(drawn(), "nut").pred_score


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "realeased"}, "did you mean 'released'"),
        ({"method": "wincclip"}, "unknown method 'wincclip'"),
        ({"threshold": 1.5}, "threshold"),
    ],
)
def test_wrong_settings(golden_backbone, arguments, message):
    with pytest.raises(UsageError, match=message):
        AnoVL(golden_backbone, **arguments)


def test_wrong_images(detector, tmp_path):
    with pytest.raises(ImageNotFoundError, match="no such file"):
        detector.predict(tmp_path / "absent.png", "nut")
    with pytest.raises(UsageError, match="expected an image"):
        detector.predict(3.5, "nut")
    small = AnoVL(detector.backbone, limits=ImageLimits(max_pixels=100))
    with pytest.raises(ImageTooLargeError, match="3,500 pixels, over the limit of 100"):
        small.predict(drawn(), "nut")


def test_values_that_are_not_finite_are_an_error(tiny_clip):
    clip = tiny_clip()
    clip.visual.proj.data[0, 0] = float("nan")
    import open_clip

    detector = AnoVL(anovl.Backbone.from_clip(clip, open_clip.get_tokenizer("ViT-B-32")))
    with pytest.raises(AnovlError, match="not finite"):
        detector.predict(drawn(), "nut")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_non_square_input(tiny_clip, kind):
    import open_clip

    backbone = anovl.Backbone.from_clip(tiny_clip(kind), open_clip.get_tokenizer("ViT-B-32"), image_size=(64, 128))
    prediction = AnoVL(backbone).predict(drawn(), "nut")
    assert prediction.patch_scores.shape == ((4, 8) if kind == "vit" else (2, 4))
    with pytest.raises(UsageError, match="square"):
        AnoVL(backbone, recipe="released")


def test_released_recipe_draws_on_a_readable_scale(golden_backbone):
    recipe = anovl.recipe("released", image_score="class_token")
    low, high = AnoVL(golden_backbone, recipe=recipe).predict(drawn(), "nut").score_range
    scale = golden_backbone.logit_scale
    assert low == pytest.approx(1 / (1 + np.exp(5 / scale)))
    assert high == pytest.approx(1 - low)
    assert AnoVL(golden_backbone).predict(drawn(), "nut").score_range == (0.0, 1.0)


def test_image_score_from_the_map(golden_backbone):
    prediction = AnoVL(golden_backbone, recipe=anovl.recipe(image_score="map_max")).predict(drawn(), "nut")
    assert prediction.pred_score == pytest.approx(float(prediction.patch_scores.max()), abs=1e-6)


def test_a_model_is_used_with_its_own_recipe_unless_told_otherwise(golden_backbone):
    own = replace(golden_backbone, recipe="mini", note="for tests")
    assert AnoVL(own).recipe == anovl.recipe("mini")
    assert AnoVL(own, recipe="paper").recipe == anovl.recipe("paper")
    assert AnoVL(golden_backbone).recipe == anovl.recipe("default")
    assert own.describe()["note"] == "for tests"
    assert "note" not in golden_backbone.describe()


ADAPTED = {"adapt": True, "seed": 1}


@pytest.mark.parametrize("recipe", ["default", "paper", "released"])
def test_adaptation_alone_in_any_batch_and_order(golden_backbone, recipe):
    detector = AnoVL(golden_backbone, recipe=replace(RECIPES[recipe], image_score="map_max"))
    images = [drawn(seed) for seed in range(7)]
    alone = [detector.predict(image, "nut", **ADAPTED) for image in images]
    order = [3, 6, 0, 5, 1, 4, 2]
    for batch_size in (3, 7):
        for i, one in zip(
            order, detector.stream([images[i] for i in order], "nut", batch_size=batch_size, **ADAPTED), strict=True
        ):
            assert abs(one.pred_score - alone[i].pred_score) < 1e-5
            assert np.abs(one.anomaly_map - alone[i].anomaly_map).max() < 1e-5
    again = detector.predict(images[0], "nut", **ADAPTED)
    assert np.array_equal(again.anomaly_map, alone[0].anomaly_map)
    plain = detector.predict(images[0], "nut")
    assert np.abs(again.patch_scores - plain.patch_scores).max() > 1e-4
    assert again.patch_scores_std is None
    assert again.to_dict()["pred_score_std"] is again.to_dict()["patch_scores_std"] is None


def test_no_step_is_training_free(golden_backbone):
    detector = AnoVL(golden_backbone, recipe="paper")
    none = replace(detector.recipe.adaptation, steps=0)
    one = detector.predict(drawn(), "nut", adapt=none)
    job = detector.job("nut", adapt=none)
    assert job.adapters[0].start.noise.shape[0] == 0
    assert one.patch_scores.shape == (15, 15)


def test_several_seeds_give_mean_and_spread(golden_backbone):
    detector = AnoVL(golden_backbone, recipe=replace(RECIPES["default"], image_score="map_max"))
    single = [detector.predict(drawn(), "nut", adapt=True, seed=seed) for seed in (0, 1, 5)]
    several = detector.predict(drawn(), "nut", adapt=True, seed=(0, 1, 5))
    grids = np.stack([one.patch_scores for one in single])
    assert several.patch_scores == pytest.approx(grids.mean(axis=0), abs=1e-6)
    assert several.patch_scores_std == pytest.approx(grids.std(axis=0, ddof=1), abs=1e-6)
    assert several.pred_score == pytest.approx(np.mean([one.pred_score for one in single]), abs=1e-6)
    assert several.pred_score_std == pytest.approx(np.std([one.pred_score for one in single], ddof=1), abs=1e-6)
    row = several.to_dict()
    assert row["pred_score_std"] == several.pred_score_std
    assert row["patch_scores_std"] == pytest.approx(float(several.patch_scores_std.mean()))


def test_adaptation_with_own_prompts_other_grids_and_towers(tiny_clip, golden_name):
    import open_clip

    from anovl.backbones import Backbone

    words = Wording(templates=("a {object}",), states=(("good {class}", "bad {class}"),), domain="plain", defects=("hole",))
    for clip in (tiny_clip("vit"), tiny_clip("resnet")):
        backbone = Backbone.from_clip(clip, open_clip.get_tokenizer("ViT-B-32"), name="tiny", weights_id="tiny")
        for recipe in ("default", "paper"):
            prediction = AnoVL(backbone, recipe=recipe).predict(drawn(), "nut", wording=words, adapt=True)
            assert np.isfinite(prediction.anomaly_map).all()
    wide = AnoVL.from_pretrained(golden_name, image_size=(64, 96), device="cpu")
    assert wide.predict(drawn(), "nut", adapt=True).patch_scores.shape == (4, 6)
    assert wide.predict(drawn(), "nut", domain="texture", adapt=True).patch_scores.shape == (4, 6)


def test_an_adaptation_that_blows_up_is_training_free_and_says_so(golden_backbone, caplog):
    detector = AnoVL(golden_backbone)
    wild = replace(detector.recipe.adaptation, learning_rate=1e38)
    with caplog.at_level(logging.WARNING, logger="anovl"):
        adapted = detector.predict(drawn(), "nut", adapt=wild)
    assert "not finite: 1 of 1 images keep their training-free map" in caplog.text
    assert adapted.patch_scores == pytest.approx(detector.predict(drawn(), "nut").patch_scores, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"adapt": 1}, {"adapt": "yes"}, {"seed": ()}, {"seed": (1, 1)}, {"seed": -1}, {"seed": 0.5}])
def test_adaptation_arguments_that_are_not_valid(detector, wrong):
    with pytest.raises(UsageError, match=r"adapt: expected|seed: expected"):
        detector.predict(drawn(), "nut", **{"adapt": True, **wrong})
