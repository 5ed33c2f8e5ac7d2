"""Images that score each other: blocked sums equal the plain definition; what cannot be compared is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from anovl import AnoVL
from anovl.config import Mutual
from anovl.errors import ImageNotFoundError, UsageError
from anovl.methods import musc
from anovl.methods.musc import mutual_distances, references, rescored, settled_weight, standardized


def drawn(seed, size=(70, 50)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def rough(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_distances(tokens, grid, settings):
    """The definition, an image and another at a time, in float64."""
    rows, columns = grid
    against = references(len(tokens), settings)
    found = torch.zeros(len(tokens), rows * columns, dtype=torch.float64)
    for radius in settings.radii:
        reach = radius // 2
        square = tokens.double().unflatten(1, grid)
        near = [
            square[:, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1].mean((1, 2))
            for i in range(rows)
            for j in range(columns)
        ]
        vectors = F.normalize(torch.stack(near, dim=1), dim=-1)
        for image in range(len(tokens)):
            others = [vectors[other] for other in against if other != image]
            far = torch.stack([torch.cdist(vectors[image], kept).amin(dim=1) for kept in others]).sort(dim=0).values
            count = max(1, int(settings.interval * (len(against) - 1)))
            found[image] += far[:count].mean(dim=0) / len(settings.radii)
    return found


@pytest.mark.parametrize("memory", [1, 16 * 6 * 8 * 3, 2**28])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_blocks_are_the_plain_definition(monkeypatch, memory, share):
    monkeypatch.setattr(musc, "MEMORY", memory)
    tokens, grid = standardized(rough(8, 6, 12)), (2, 3)
    settings = Mutual(share=share, seed=5, interval=0.4, radii=(1, 3))
    found = mutual_distances(lambda numbers: tokens[list(numbers)], 8, grid, settings)
    assert (found - plain_distances(tokens, grid, settings)).abs().max() < 1e-5


def plain_rescored(scores, tokens, numbers):
    cosine = (F.normalize(tokens.double(), dim=-1) @ F.normalize(tokens.double(), dim=-1).T).clamp(min=0)
    found = []
    for row in cosine:
        order = row.argsort(descending=True)
        found.append(np.mean([float((row[order[:k]] * scores[order[:k]]).sum() / row[order[:k]].sum()) for k in numbers]))
    return torch.tensor(found)


@pytest.mark.parametrize("memory", [1, 2**28])
def test_rescoring_is_the_plain_definition(monkeypatch, memory):
    monkeypatch.setattr(musc, "MEMORY", memory)
    scores, tokens = torch.rand(9), rough(9, 16)
    for numbers in ((1, 2, 3), (4,), (1, 9)):
        expected = plain_rescored(scores.double(), tokens, numbers)
        assert (rescored(scores, tokens, Mutual(neighbours=numbers)) - expected).abs().max() < 1e-5
    torch.testing.assert_close(rescored(scores, tokens, Mutual(neighbours=(1,))), scores)
    assert torch.isfinite(rescored(scores, -tokens.abs() * torch.eye(9, 16), Mutual(neighbours=(50,)))).all()


def test_references_are_drawn_from_the_seed():
    assert references(5, Mutual()) == [0, 1, 2, 3, 4]
    some = references(1000, Mutual(share=0.1))
    assert len(set(some)) == 100
    assert all(a < b for a, b in pairwise(some))
    assert some == references(1000, Mutual(share=0.1)) != references(1000, Mutual(share=0.1, seed=1))
    assert len(references(3, Mutual(share=0.01))) == 2


def test_whole_run_is_the_plain_definition(detector):
    """From the encoder's tokens in float64, with text; one pass, however the images are batched."""
    images = [drawn(seed) for seed in range(5)]
    encoder, text, scale = detector.method.encoder, detector.job("nut").text.prototypes.double(), detector.method.logit_scale
    with torch.inference_mode():
        pixels = torch.stack([detector.preprocess(Image.fromarray(one)) for one in images])
        class_tokens, local, (deep,) = encoder.encode_layers(pixels, [round(encoder.depth * 2 / 3)])
    settings = Mutual(radii=(1, 3), neighbours=(1, 2, 3))
    distance = sum(plain_distances(standardized(path), encoder.grid, settings) for path in (local, deep)) / 2

    def logit(tokens):
        cosine = F.normalize(tokens.double(), dim=-1) @ text.T
        return scale * (cosine[..., 1] - cosine[..., 0])

    weight = 0.01 / float(distance.median()) ** 2
    assert 0 < weight < 0.8
    patches = torch.sigmoid(logit(local) + scale * weight * distance)
    scores = torch.sigmoid(logit(class_tokens) + scale * weight * distance.amax(dim=1))
    scores = plain_rescored(scores, class_tokens, (1, 2, 3))
    for batch_size in (2, 5):
        found = list(detector.stream(images, "nut", batched=settings, batch_size=batch_size))
        for number, prediction in enumerate(found):
            assert np.abs(prediction.patch_scores.ravel() - patches[number].numpy()).max() < 1e-5
            assert prediction.pred_score == pytest.approx(float(scores[number]), abs=1e-5)
            assert prediction.anomaly_map.shape == (70, 50)
            assert not prediction.calibrated


def test_images_are_averaged_without_text_alone():
    assert Mutual().averaged_over == (1,)
    assert Mutual(weight=None).averaged_over == (1, 2, 3)
    assert Mutual(neighbours=(2,)).averaged_over == Mutual(weight=None, neighbours=(2,)).averaged_over == (2,)


def test_alike_images_weigh_more():
    assert settled_weight(torch.tensor([0.1, 0.2, 0.9])) == pytest.approx(0.25)
    assert settled_weight(torch.zeros(3)) == 0.8


def test_the_odd_one_out_scores_highest_without_text(detector):
    images = [np.full((64, 64, 3), 128, np.uint8) + drawn(seed, (64, 64)) % 9 for seed in range(7)]
    images[4] = images[4].copy()
    images[4][16:48, 16:48] = drawn(50, (32, 32))
    found = list(detector.stream(images, "nut", batched=Mutual(weight=None, neighbours=(1,))))
    assert int(np.argmax([one.pred_score for one in found])) == 4
    assert all(one.pred_score == pytest.approx(one.patch_scores.max()) and one.patch_scores.min() >= 0 for one in found)
    rows, columns = found[4].patch_scores.shape
    row, column = np.unravel_index(found[4].patch_scores.argmax(), (rows, columns))
    assert rows // 4 <= row < rows - rows // 4
    assert columns // 4 <= column < columns - columns // 4


def test_broken_images_are_left_out_of_the_comparison(detector, tmp_path):
    good = [drawn(seed) for seed in range(3)]
    missing = tmp_path / "gone.png"
    with pytest.raises(ImageNotFoundError):
        list(detector.stream([*good, missing], "nut", batched=True))
    some = list(detector.stream([good[0], missing, *good[1:]], "nut", batched=True, on_error="skip"))
    every = list(detector.stream(good, "nut", batched=True))
    assert [one.pred_score for one in some] == pytest.approx([one.pred_score for one in every], abs=1e-6)


def test_what_cannot_be_compared(detector):
    with pytest.raises(UsageError, match="expected at least 2, got 1"):
        list(detector.stream([drawn(0)], "nut", batched=True))
    with pytest.raises(UsageError, match="'transmm' has no patch tokens"):
        list(detector.with_method("transmm").stream([drawn(0)], "nut", batched=True))
    fitted = detector.fit([drawn(1)], "nut")
    with pytest.raises(UsageError, match="fitted to good pictures"):
        list(fitted.stream([drawn(0)], "nut", batched=True))
    calibrated = detector.with_profile(detector.calibrate([drawn(1)], "nut"))
    with pytest.raises(UsageError, match="no profile holds"):
        list(calibrated.stream([drawn(0)], "nut", batched=True))
    for settings in ({"radii": (2,)}, {"radii": ()}, {"neighbours": (0,)}, {"interval": 0}, {"weight": 11}, {"share": 0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            Mutual(**settings)


def test_half_precision_keeps_half_the_bytes(golden_name):
    half = AnoVL.from_pretrained(golden_name, device="cpu", dtype="bf16")
    full = AnoVL.from_pretrained(golden_name, device="cpu")
    images = [drawn(seed) for seed in range(4)]
    pairs = zip(half.stream(images, "nut", batched=True), full.stream(images, "nut", batched=True), strict=True)
    assert max(np.abs(a.patch_scores - b.patch_scores).max() for a, b in pairs) < 2e-2
