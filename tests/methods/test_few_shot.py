"""A memory of good pictures: blocked sums equal the plain definition, what is saved comes back, what does not fit is refused."""

import json
from dataclasses import asdict, replace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from anovl import AnoVL, Backbone
from anovl.config import FewShot
from anovl.core.scoring import Scores
from anovl.errors import UsageError
from anovl.methods import few_shot
from anovl.methods.few_shot import Bank, averaged, coreset, fused, nearest, settled_weight


def drawn(seed, size=(70, 50)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture(scope="module")
def fitted(golden_backbone):
    return AnoVL(golden_backbone).fit([drawn(1), drawn(2), drawn(3)], "nut")


@pytest.mark.parametrize("memory", [4, 4 * 7**2, 2**20])
def test_nearest_in_blocks_is_the_plain_definition(monkeypatch, memory):
    monkeypatch.setattr(few_shot, "MEMORY", memory)
    queries, kept = unit(3, 5, 16), unit(23, 16, seed=1)
    plain = torch.stack([torch.stack([(kept.double() @ q.double()).max() for q in image]) for image in queries])
    assert (nearest(queries, kept) - plain).abs().max() < 1e-5


def test_coreset_is_greedy_k_center():
    tokens = unit(40, 8)
    chosen = coreset(tokens, 0.25, seed=3)
    assert len(set(chosen.tolist())) == 10
    for count in range(1, 10):  # each is the farthest from those before it
        distance = torch.cdist(tokens.double(), tokens[chosen[:count]].double()).amin(dim=1)
        assert distance[chosen[count]] == pytest.approx(float(distance.max()), abs=1e-6)
    assert torch.equal(chosen, coreset(tokens, 0.25, seed=3))
    assert not torch.equal(chosen, coreset(tokens, 0.25, seed=4))
    assert coreset(tokens, 1.0, seed=0).tolist() == list(range(40))
    assert len(coreset(tokens, 1e-6, seed=0)) == 1


def test_coreset_takes_no_token_twice():
    assert len(set(coreset(torch.full((6, 4), 0.5), 0.5, seed=0).tolist())) == 3


def test_neighbours_that_are_there_are_averaged():
    tokens = torch.arange(6.0).view(1, 6, 1)
    assert averaged(tokens, 3, (2, 3)).flatten().tolist() == [2.0, 2.5, 3.0, 2.0, 2.5, 3.0]
    assert averaged(tokens, 1, (2, 3)) is tokens


def test_distance_is_added_to_the_logit():
    text, distance = torch.rand(4, 3, 2).double(), torch.rand(4, 3, 2).double()
    scores = fused(Scores(text[:, 0, 0], text, text[:, 0], text[:, None]), distance, 2.5)
    torch.testing.assert_close(scores.patch_scores, torch.sigmoid(text.logit() + 2.5 * distance))
    torch.testing.assert_close(scores.image_score, torch.sigmoid(text[:, 0, 0].logit() + 2.5 * distance.amax((1, 2))))
    torch.testing.assert_close(scores.patch_seeds[:, 0], scores.patch_scores)
    torch.testing.assert_close(scores.image_seeds[:, 0], scores.image_score)
    ends = fused(Scores(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]).view(2, 1, 1)), torch.full((2, 1, 1), 2.0), 1000)
    assert ends.image_score.tolist() == ends.patch_scores.flatten().tolist() == [0.0, 1.0]


def test_scores_are_the_plain_definition(detector, fitted):
    """From the encoder's tokens in float64: text cosines, nearest kept token, averages over three by three patches."""
    encoder, text, scale = detector.method.encoder, detector.job("nut").text.prototypes.double(), detector.method.logit_scale
    (layer,) = fitted.bank.settings.layers
    rows, columns = encoder.grid

    def look(seed):
        pixels = detector.preprocess(Image.fromarray(drawn(seed)))[None]
        with torch.inference_mode():
            class_token, local, (deep,) = encoder.encode_layers(pixels, [layer])
        return [tokens[0].double() for tokens in (class_token, local, deep)]

    def mean(tokens):
        square = tokens.unflatten(0, encoder.grid)
        near = [
            square[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].flatten(0, 1).mean(0)
            for i in range(rows)
            for j in range(columns)
        ]
        return F.normalize(torch.stack(near), dim=-1)

    good = [look(seed) for seed in (1, 2, 3)]
    class_token, *paths = look(9)
    distance = 0
    for path in (0, 1):
        kept = torch.cat([mean(one[1 + path]) for one in good])
        distance = distance + (1 - mean(paths[path]) @ kept.T).amin(dim=1) / 2

    weight = fitted.bank.settings.weight

    def logit(tokens):
        cosine = F.normalize(tokens, dim=-1) @ text.T
        return scale * (cosine[..., 1] - cosine[..., 0])

    prediction = fitted.predict(drawn(9), "nut")
    expected = torch.sigmoid(logit(paths[0]) + scale * weight * distance).unflatten(0, encoder.grid)
    assert np.abs(prediction.patch_scores - expected.numpy()).max() < 1e-5
    assert prediction.pred_score == pytest.approx(
        float(torch.sigmoid(logit(class_token) + scale * weight * distance.max())), abs=1e-5
    )


def test_good_pictures_themselves_keep_the_score_of_the_text(detector, fitted):
    for seed, same in ((2, True), (9, False)):
        plain, other = (one.predict(drawn(seed), "nut").patch_scores for one in (detector, fitted))
        assert (np.abs(plain - other).max() < 1e-5) == same
        assert (other >= plain - 1e-6).all()


def test_one_pass_of_the_encoder(fitted, monkeypatch):
    calls = []
    conv1 = fitted.method.encoder.conv1
    monkeypatch.setattr(conv1, "forward", lambda x: calls.append(len(x)) or type(conv1).forward(conv1, x))
    list(fitted.stream([drawn(i) for i in range(4)], "nut", batch_size=2))
    assert calls == [2, 2]


def test_with_adaptation_and_seeds(fitted):
    one, other, both = (fitted.predict(drawn(9), "nut", adapt=True, seed=seed) for seed in (0, 1, (0, 1)))
    assert both.pred_score == pytest.approx((one.pred_score + other.pred_score) / 2, abs=1e-6)
    np.testing.assert_allclose(both.patch_scores, (one.patch_scores + other.patch_scores) / 2, atol=1e-6)


def test_bank_comes_back_from_its_file(detector, fitted, tmp_path):
    path = tmp_path / "deep" / "bank.safetensors"
    fitted.bank.save(path)
    read = Bank.load(path)
    assert (read.settings, read.pictures, read.key) == (fitted.bank.settings, 3, fitted.bank.key)
    again = detector.with_bank(read).predict(drawn(9), "nut")
    assert np.array_equal(again.anomaly_map, fitted.predict(drawn(9), "nut").anomaly_map)
    small = detector.fit([drawn(1)], "nut", settings=FewShot(share=0.5, layers=()))
    assert [len(kept) for kept in small.bank.tokens] == [round(len(fitted.bank.tokens[0]) / 6)]


def test_key_tells_what_scores_depend_on(fitted):
    bank = fitted.bank

    def having(**changes):
        return replace(bank, settings=replace(bank.settings, **changes)).key

    assert having(share=0.5, seed=1) == bank.key  # these matter to the tokens alone
    assert len({bank.key, having(weight=0.1), having(weight=0.8), having(radius=1), having(layers=(2, 3))}) == 5
    assert having(weight=1) == having(weight=1.0)


def test_alike_pictures_weigh_more(detector):
    """By the mean distance of a patch to the nearest one of the other pictures, by the plain definition; 3 at most."""
    pictures = unit(3, 5, 16), unit(3, 4, 8, seed=1)
    apart = [
        1 - max(float(path[i, m] @ path[j, k]) for j in range(3) if j != i for k in range(path.shape[1]))
        for path in pictures
        for i in range(3)
        for m in range(path.shape[1])
    ]
    usual = (np.mean(apart[:15]) + np.mean(apart[15:])) / 2
    features = [tuple(path[i] for path in pictures) for i in range(3)]
    origin = detector.job("nut").origin
    assert Bank.of(features, origin, FewShot()).settings.weight == pytest.approx(2e-4 / usual**2, rel=1e-3)
    assert Bank.of(features, origin, FewShot(weight=0.7)).settings.weight == 0.7
    assert Bank.of(features[:1] * 2, origin, FewShot()).settings.weight == pytest.approx(3.0)
    assert Bank.of(features[:1], origin, FewShot()).settings.weight == 0.1


@pytest.mark.parametrize("pictures", [8, 20])
def test_eight_pictures_are_compared_with_all_others(monkeypatch, pictures):
    path, seen = unit(4 * pictures, 16), []
    monkeypatch.setattr(few_shot, "nearest", lambda one, rest: seen.append((one, rest)) or nearest(one, rest))
    weight = settled_weight([path], pictures)
    expected = [index * pictures // 8 for index in range(8)]
    assert [one[0].tolist() for one, _ in seen] == [path[4 * index].tolist() for index in expected]
    assert {len(rest) for _, rest in seen} == {4 * (pictures - 1)}
    apart = torch.stack([1 - nearest(one, rest).mean() for one, rest in seen]).mean()
    assert weight == 2e-4 / float(apart) ** 2


def test_winclip_has_one_weight(detector):
    winclip = detector.with_method("winclip")
    assert winclip.fit([drawn(1), drawn(2)], "nut").bank.settings.weight == 0.5
    with pytest.raises(UsageError, match=r"weight: winclip takes the mean of words and distance; leave the weight out, got 0.7"):
        winclip.fit([drawn(1), drawn(2)], "nut", settings=FewShot(weight=0.7))


def test_bank_of_something_else_is_refused(detector, fitted):
    with pytest.raises(UsageError, match="bank: made for class name: 'nut', not 'bolt'"):
        fitted.predict(drawn(0), "bolt")
    others = {
        "recipe interpolation: 'bicubic', not 'bilinear'": detector.with_recipe("released"),
        "method: 'anovl', not 'clip'": detector.with_method("clip"),
    }
    for message, other in others.items():
        with pytest.raises(UsageError, match=message):
            other.with_bank(fitted.bank).predict(drawn(0), "nut")
    foreign = replace(fitted.bank, origin=replace(fitted.bank.origin, weights="f" * 64))
    with pytest.raises(UsageError, match="weights ffffffff"):
        detector.with_bank(foreign).predict(drawn(0), "nut")
    fitted.predict(drawn(0), "nut", defects=["scratch"], output_size="input")  # words and map size do not matter to tokens
    for change in (lambda: fitted.with_recipe("paper"), lambda: fitted.with_method("clip")):
        with pytest.raises(UsageError, match="then fit"):
            change()


def test_profile_of_another_memory_is_refused(detector, fitted):
    profile = fitted.calibrate([drawn(4), drawn(5)], "nut")
    assert fitted.with_profile(profile).predict(drawn(9), "nut").calibrated
    for other in (detector, detector.fit([drawn(1)], "nut")):
        with pytest.raises(UsageError, match="method: 'anovl with bank"):
            other.with_profile(profile).predict(drawn(9), "nut")
    heavier = replace(fitted.bank, settings=replace(fitted.bank.settings, weight=0.8))
    message = f"method: 'anovl with bank {fitted.bank.key}', not 'anovl with bank {heavier.key}'"
    with pytest.raises(UsageError, match=message):
        detector.with_bank(heavier).with_profile(profile).predict(drawn(9), "nut")


def test_what_cannot_be_fitted(detector):
    with pytest.raises(UsageError, match="expected 1 to 64 good pictures, got 0"):
        detector.fit([], "nut")
    with pytest.raises(UsageError, match="expected 1 to 64 good pictures, got 65"):
        Bank.of([[unit(2, 3)]] * 65, detector.job("nut").origin, FewShot())
    with pytest.raises(UsageError, match="layers: expected ascending numbers from 1 to"):
        detector.fit([drawn(0)], "nut", settings=FewShot(layers=(99,)))
    with pytest.raises(UsageError, match="'transmm' keeps nothing"):
        detector.with_method("transmm").fit([drawn(0)], "nut")


@pytest.mark.parametrize(
    "settings",
    [{"share": 0}, {"share": 1.5}, {"radius": 2}, {"weight": 0}, {"weight": 11}, {"layers": (0,)}, {"layers": [1]}, {"seed": -1}],
)
def test_settings_out_of_range(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        FewShot(**settings)


def test_file_that_is_no_bank(fitted, tmp_path):
    path = tmp_path / "bank.safetensors"
    with pytest.raises(UsageError, match="cannot be read"):
        Bank.load(path)
    fitted.bank.save(path)
    whole = path.read_bytes()
    for broken in (b"", b"no safetensors", whole[: len(whole) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match="not a bank"):
            Bank.load(path)
    facts = {
        "settings": asdict(replace(fitted.bank.settings, weight="auto")),
        "pictures": 3,
        "origin": asdict(fitted.bank.origin),
    }
    save_file({"path.0": torch.ones(2, 3)}, path, {"format": "1", "bank": json.dumps(facts)})
    with pytest.raises(UsageError, match=r"not a bank of this anovl \(weight: expected a number"):
        Bank.load(path)
    facts = {"settings": {"layers": None}, "pictures": 1, "origin": {}}
    for metadata in ({}, {"format": "9", "bank": "{}"}, {"format": "1", "bank": json.dumps(facts)}, {"format": "1", "bank": "["}):
        save_file({"path.0": torch.ones(2, 3)}, path, metadata)
        with pytest.raises(UsageError, match="not a bank"):
            Bank.load(path)


def test_resnet_keeps_its_local_tokens(tiny_clip):
    backbone = Backbone.from_clip(tiny_clip("resnet"), open_clip.get_tokenizer("RN50"))
    fitted = AnoVL(backbone).fit([drawn(1)], "nut")
    assert fitted.bank.settings.layers == ()
    assert fitted.predict(drawn(2), "nut").anomaly_map.shape == (70, 50)
    with pytest.raises(UsageError, match="none, this backbone is a ResNet"):
        AnoVL(backbone).fit([drawn(1)], "nut", settings=FewShot(layers=(1,)))
