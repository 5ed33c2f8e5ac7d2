import itertools
import math
import sys

import average
import evaluate
import numpy as np
import open_clip
import pytest
import torch
import train
import words
from attention import FastAttention
from muon import Muon
from pictures import FIRST_TRAINING_SEED, SHAPE, draw_block, turned
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from train import Plan, Stage

from anovl.backbones import load_backbone
from anovl.checkpoints import embedded_folder
from anovl.core.prompts import build_prompts
from anovl.data.synthetic import CLASSES
from anovl.data.synthetic.scene import HELD_OUT

TINY = Plan((Stage(96, 2, 8),), block=16, repeats=1, warm_up=2)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Models are built from 40 drawn pictures instead of 400."""
    monkeypatch.setattr(train, "WHITENED", 40)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "bpe.txt.gz"
    return words.write_vocabulary(path), open_clip.SimpleTokenizer(bpe_path=str(path))


def test_vocabulary_is_small_and_reads_any_sentence(vocabulary):
    size, tokenizer = vocabulary
    assert size == tokenizer.vocab_size < 2000
    for sentence in ("a photo of a metal nut without flaw", "Ünïcode Größe 零件 🔩", "qzx-42 hazelnut"):
        tokens = tokenizer([sentence])[0]
        assert tokens.max() == tokenizer.eot_token_id == size - 1
    assert (tokenizer(build_prompts("metal nut").abnormal) > 0).sum(dim=1).max() < 30


def test_held_out_classes_are_in_no_sentence_and_no_picture():
    every = [*words.NOUNS, *words.ALL_TEMPLATES, *words.NORMAL, *words.ABNORMAL]
    every += [text for group in (words.NAMES, words.GENERIC, words.KINDS) for texts in group.values() for text in texts]
    text = " ".join(every).split()
    for name in HELD_OUT:
        assert name not in words.TRAINED
        assert name.split()[0] not in text
    block = draw_block([0], size=96, pictures=40, objects=0.5)
    assert not set(block.classes) & set(HELD_OUT)


def test_training_seeds_are_apart_from_those_of_data_sets_and_demo():
    from anovl.data.synthetic.layout import plan

    assert all(picture.seed(seed) < FIRST_TRAINING_SEED for seed in range(3) for picture in plan("gear", per_class=50))


def test_held_out_seeds_of_the_evaluation_are_apart_from_all_others():
    starts = sorted([*evaluate.SEEDS.values(), FIRST_TRAINING_SEED])
    assert starts[0] >= 2**53  # those of data sets have as many bits
    assert all(after - before >= 2**50 for before, after in itertools.pairwise(starts))


def test_every_kind_of_defect_is_evaluated():
    jobs = evaluate.held_out_jobs("verdict", 2 * max(len(info.defects) for info in CLASSES.values()))
    for name, info in CLASSES.items():
        own = [(seed, kind) for job, seed, kind in jobs if job == name]
        assert {kind for _, kind in own} == {None, *info.defects}
        assert sum(kind is None for _, kind in own) == len(own) / 2
        assert {seed for seed, _ in own} == {evaluate.SEEDS["verdict"] + index for index in range(len(own))}


def test_every_block_of_a_run_has_pictures_of_its_own(tmp_path, monkeypatch):
    keys = []

    def noted(key, **settings):
        keys.append(tuple(key))
        return draw_block(key, **settings)

    monkeypatch.setattr(train, "draw_block", noted)
    trainer = train.Trainer(0, tmp_path, Plan((Stage(96, 2, 8), Stage(96, 2, 8)), block=8, repeats=1), "cpu", fast=False)
    keys.clear()  # that of the whitening
    trainer.run(0)
    assert len(set(keys)) == len(keys) == 4
    assert trainer.step == trainer.total == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "96:1:400:0"], "a batch from 1 to the 384 pictures of a block"),
        (["--stages", "96:1:8:0", "--start", "{first}/model", "--seed", "3"], "was trained with 3 and saw these pictures"),
    ],
)
def test_settings_that_would_train_nothing_new(tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "first").mkdir()
    (tmp_path / "first/plan.json").write_text('{"seed": 3}')
    filled = [argument.format(first=tmp_path / "first") for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["train.py", str(tmp_path / "run"), *filled])
    with pytest.raises(SystemExit, match="2"):
        train.main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_block_depends_on_its_key_alone():
    one, two, other = (draw_block([7, n], size=96, pictures=6, objects=0.5) for n in (0, 0, 1))
    assert torch.equal(one.images, two.images)
    assert torch.equal(one.cells, two.cells)
    assert not torch.equal(one.images, other.images)


def test_cells_are_turned_with_their_picture():
    cells = torch.randint(0, 256, (3, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for seed in range(8):
        images, grids = turned(cells[:, None].expand(-1, 3, -1, -1), cells, np.random.default_rng(seed))
        assert torch.equal(images, grids[:, None].expand(-1, 3, -1, -1))


def test_a_defective_picture_and_its_twin_stay_side_by_side():
    block = draw_block([1], size=96, pictures=30, objects=0.5)
    pairs = sum(a == b for a, b in itertools.pairwise(block.things))
    assert pairs > 3
    for _, _, classes, kinds in train._batches(block, 30, 2, np.random.default_rng(0)):
        rows = list(zip(classes, kinds, strict=True))
        assert sorted(rows, key=str) == sorted(zip(block.classes, block.kinds, strict=True), key=str)
        found = sum(a[0] == b[0] and a[1] is not None and b[1] is None for a, b in itertools.pairwise(rows))
        assert found >= pairs


def test_share_of_objects():
    for share in (0.0, 1.0):
        block = draw_block([2], size=96, pictures=12, objects=share)
        assert {CLASSES[name].kind for name in block.classes} == {"object" if share else "texture"}


def test_share_of_defects_of_shape():
    always = draw_block([2], size=96, pictures=24, objects=1.0, shape=1.0)
    assert {kind for kind in always.kinds if kind} <= set(SHAPE)
    surfaces = draw_block([2], size=96, pictures=24, objects=0.0, shape=1.0)  # have none of them: any of their own
    assert {kind for kind in surfaces.kinds if kind} - set(SHAPE)


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_a_model_folder(tmp_path):
    (tmp_path / "run").mkdir()
    mini = embedded_folder("mini")
    trainer = train.Trainer(0, tmp_path / "run", Plan(**{**TINY.__dict__, "start": str(mini)}), "cpu", fast=False)
    for name, value in load_file(mini / "open_clip_model.safetensors").items():
        assert torch.equal(trainer.clip.state_dict()[name], value.float())


def test_patches_of_another_size_are_read_as_if_enlarged(vocabulary):
    coarse, fine = train.build(vocabulary[0], 0), train.build(vocabulary[0], 1, patch=12)
    fine.load_state_dict(train.refit(coarse.state_dict(), fine.state_dict()))
    patch = torch.rand(1, 3, 12, 12)
    large = F.interpolate(patch, (16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fine.visual.conv1(patch), coarse.visual.conv1(large))
    assert fine.visual.positional_embedding.shape == (1 + 20 * 20, 192)


def test_muon_is_that_of_torch():
    ours, theirs = (torch.nn.Parameter(value) for value in torch.randn(24, 8).repeat(2, 1, 1))
    optimisers = (
        Muon([ours], lr=0.1, weight_decay=0.05),
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(24, 8)
        for optimiser in optimisers:
            optimiser.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)  # theirs rounds to bfloat16


def test_mean_of_two_models(tmp_path, monkeypatch, capsys):
    for name, value in (("before", 1.0), ("after", 2.0), ("other", 3.0)):
        (tmp_path / name).mkdir()
        shape = (3, 3, 2, 2) if name == "other" else (2, 3, 2, 2)
        save_file({"visual.conv1.weight": torch.full(shape, value).half()}, tmp_path / name / average.WEIGHTS)
        (tmp_path / name / "open_clip_config.json").write_text(name)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["average.py", *(str(tmp_path / name) for name in arguments), "--share", "0.75"])
        average.main()

    run("before", "after", "mean")
    assert (load_file(tmp_path / "mean" / average.WEIGHTS)["visual.conv1.weight"] == 1.75).all()
    assert (tmp_path / "mean" / "open_clip_config.json").read_text() == "after"
    for wrong, says in (
        (("before", "other", "mean2"), "differ in architecture"),
        (("before", "none", "mean2"), "it has no open_clip_model.safetensors"),
        (("before", "after", "mean"), "is there already"),
    ):
        with pytest.raises(SystemExit):
            run(*wrong)
        assert says in capsys.readouterr().err
    assert not (tmp_path / "mean2").exists()


def test_captions_are_true_of_their_pictures():
    classes, kinds = ["gear", "gear", "wood", "gear"], [None, "crack", "crack", None]
    for seed in range(30):
        captions, true = train.true_captions(classes, kinds, np.random.default_rng(seed))
        assert true.diagonal().all()
        assert not true[0, 1]
        assert not true[1, 0]
        general = [not any(name in caption for name in words.NAMES["gear"]) for caption in captions]
        assert bool(true[1, 2]) <= (not any(name in captions[2] for name in words.NAMES["wood"]))
        assert true[0, 3] or general[3] or kinds[3] is not None


def test_contrastive_loss_with_equal_captions():
    """Two pictures of one caption each count half: the best possible loss is log 2, reached by equal similarity."""
    true = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    best = torch.where(true, 50.0, -50.0)
    assert train.contrastive(best, true).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-5)
    assert train.contrastive(-best, true) > 50


def test_grid_positions_are_alike_at_any_side():
    small, large = train.sincos(192, 5)[1:].view(5, 5, -1), train.sincos(192, 15)[1:].view(15, 15, -1)
    assert torch.allclose(small, large[1::3, 1::3], atol=1e-5)


def test_value_attention_starts_as_difference_from_alike_tokens(vocabulary):
    clip = train.build(vocabulary[0], 0)
    block = clip.visual.transformer.resblocks[0].attn
    product = block.out_proj.weight @ block.in_proj_weight[-192:]
    assert (product.diagonal().mean() + 1).abs() < 0.1
    assert clip.visual.class_embedding.abs().max() == 0


def test_kept_patches(vocabulary):
    clip = train.build(vocabulary[0], 0)
    learner = train.Learner(clip, vocabulary[1], Stage(96, 1, 4, 0.5, 0.5), masks=True, fast=False)
    block = draw_block([3], size=96, pictures=4, objects=1.0, severity=(0.9, 1.0))
    rng = np.random.default_rng(0)
    losses = learner(block.images, block.cells, block.classes, block.kinds, rng)
    assert set(losses) == {"caption", "state", "top", "patch"}
    assert all(loss.isfinite() for loss in losses.values())
    kept = learner.encoder.kept
    assert kept.shape == (4, 18)
    for cells, own in zip(block.cells.view(4, 6, 4, 6, 4).amax(dim=(2, 4)).flatten(1), kept, strict=True):
        defective = set(cells.nonzero()[:, 0].tolist())
        assert len(defective - set(own.tolist())) == max(0, len(defective) - 18)

    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    learner.encoder.kept = None
    token, local = learner.encoder(pixels)
    learner.encoder.kept = torch.arange(36).flip(0).expand(2, -1)
    other, backwards = learner.encoder(pixels)
    assert torch.allclose(token, other, atol=1e-5)
    assert torch.allclose(local, backwards.flip(1), atol=1e-5)


@pytest.mark.parametrize("queries", [1, 7, 9])
def test_fast_attention_is_attention(queries):
    torch.manual_seed(0)
    q, *kv = (torch.randn(20, 3, tokens, 4, dtype=torch.float64, requires_grad=True) for tokens in (queries, 9, 9))
    upper = torch.randn(20, 3, queries, 4, dtype=torch.float64)
    mask = torch.ones(queries, 9, dtype=torch.bool).tril(2)

    def attended(**options):
        output = F.scaled_dot_product_attention(q, *kv, **options)
        return output, *torch.autograd.grad(output, (q, *kv), upper)

    expected, expected_masked = attended(), attended(attn_mask=mask)
    with FastAttention():
        fast, fast_masked = attended(), attended(attn_mask=mask)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(fast, expected, strict=True))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(fast_masked, expected_masked, strict=True))
    assert "Attend" in fast[0].grad_fn.name()


@pytest.mark.slow
@pytest.mark.parametrize("masks", [True, False])
def test_interrupted_training_ends_with_the_same_weights(tmp_path, masks):
    plan = Plan(**{**TINY.__dict__, "masks": masks})
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    train.train(0, tmp_path / "whole", plan, "cpu", False, 0.0)
    train.train(0, tmp_path / "parts", plan, "cpu", False, 1e-9)
    half = load_file(tmp_path / "parts/model/open_clip_model.safetensors")
    train.train(0, tmp_path / "parts", plan, "cpu", False, 0.0)
    whole, parts = (load_file(tmp_path / name / "model/open_clip_model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert any(not torch.equal(whole[key], half[key]) for key in whole)
    backbone = load_backbone(f"local-dir:{tmp_path / 'whole/model'}")
    assert backbone.encode_text(["a good gear"]).isfinite().all()
