"""Names -> a frozen CLIP: every kind of name, what is refused and why, sizes, precisions, text."""

from __future__ import annotations

import importlib.util
import json
import logging
import pickle
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.pretrained import _PRETRAINED
from safetensors.torch import save_file
from torch import nn

from anovl.backbones import (
    CLIP_MEAN,
    CLIP_STD,
    TEXT_BATCH,
    Backbone,
    check_available,
    list_models,
    load_backbone,
    open_clip_tags,
    pick_device,
    pick_dtype,
)
from anovl.checkpoints import CONFIG_FILE, HUB_FILES, sha256_of
from anovl.errors import CheckpointError, MissingExtraError, UnavailableError, UsageError

ARCH = "anovl-test-backbones"  # open_clip's registry is global: a name nothing else has
TEXT_CFG = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION_CFG = {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
MODEL_CFG = {"embed_dim": 24, "vision_cfg": VISION_CFG, "text_cfg": TEXT_CFG}


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("arch") / f"{ARCH}.json"
    path.write_text(json.dumps(MODEL_CFG))
    open_clip.add_model_config(path)
    return ARCH


@pytest.fixture(scope="module")
def clip(arch) -> nn.Module:
    torch.manual_seed(3)
    return open_clip.CLIP(**MODEL_CFG).eval()


@pytest.fixture
def state(clip) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in clip.state_dict().items()}


@pytest.fixture(scope="session")
def tokenizer():
    return open_clip.get_tokenizer("RN50")


@pytest.fixture
def folder(tmp_path, state):
    """Maker of a local-dir model; settings replace those of the configuration's top level."""

    def make(weights: dict[str, torch.Tensor] | None = None, **settings) -> Path:
        path = tmp_path / "model"
        path.mkdir()
        (path / CONFIG_FILE).write_text(json.dumps({"model_cfg": MODEL_CFG, **settings}))
        save_file(weights or state, path / HUB_FILES[0])
        return path

    return make


def same_weights(one: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one.state_dict()[name], tensor) for name, tensor in state.items())


# --- every kind of name


def test_local_dir(golden_name, golden_dir):
    backbone = load_backbone(golden_name, device="cpu")
    assert backbone.image_size == (240, 240)
    assert not backbone.resized
    assert backbone.weights_id == sha256_of(golden_dir / "model" / HUB_FILES[0])
    assert not backbone.clip.training
    assert not any(parameter.requires_grad for parameter in backbone.clip.parameters())
    assert backbone.describe() == {
        "name": golden_name,
        "weights_sha256": backbone.weights_id,
        "image_size": [240, 240],
        "dtype": "float32",
    }


def test_safetensors_file(tmp_path, arch, state):
    save_file(state, tmp_path / "w.safetensors")
    backbone = load_backbone(str(tmp_path / "w.safetensors"), arch=arch, device="cpu")
    assert same_weights(backbone.clip, state)
    assert (backbone.mean, backbone.std) == (CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin"])
@pytest.mark.parametrize("form", ["plain", "training"])
def test_pickled_file(tmp_path, arch, state, suffix, form):
    path = tmp_path / f"w.{suffix}"
    wrapped = {"epoch": 1, "name": "run", "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}
    torch.save(state if form == "plain" else wrapped, path)
    assert same_weights(load_backbone(str(path), arch=arch, device="cpu").clip, state)


@pytest.fixture
def release(tmp_path, arch, state, monkeypatch):
    """A tag of open_clip's table with its release file in the cache folder; returns (name, folder, state)."""

    def make(**settings) -> tuple[str, Path]:
        path = tmp_path / "file.pt"
        torch.save(state, path)
        path = path.rename(tmp_path / f"net-some_tag-{sha256_of(path)[:8]}.pt")
        entry = {"url": f"https://example.invalid/{path.name}", "hf_hub": "", **settings}
        monkeypatch.setitem(_PRETRAINED, arch, {"some_tag": entry})
        return f"{arch}:some_tag", tmp_path

    return make


@pytest.mark.parametrize("spelled", ["some_tag", "Some-Tag"])
def test_tag_whose_release_file_is_here(release, state, arch, spelled):
    _, cache = release()
    backbone = load_backbone(f"{arch}:{spelled}", cache_dir=str(cache), local_files_only=True, device="cpu")
    assert same_weights(backbone.clip, state)
    assert backbone.name == f"{arch}:{spelled}"


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_quick_gelu_is_of_the_tag(release, quick_gelu):
    name, cache = release(quick_gelu=quick_gelu)
    clip = load_backbone(name, cache_dir=cache, local_files_only=True, device="cpu").clip
    for tower in (clip.visual.transformer, clip.transformer):
        kinds = {type(block.mlp.gelu).__name__ for block in tower.resblocks}
        assert kinds == {"QuickGELU" if quick_gelu else "GELU"}


def test_mean_and_std_of_the_tag(release):
    name, cache = release(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    backbone = load_backbone(name, cache_dir=cache, local_files_only=True, device="cpu")
    assert (backbone.mean, backbone.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))


@pytest.mark.parametrize("preprocess", [{"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}, {}, None, {"mean": None}])
def test_mean_and_std_of_the_configuration(folder, preprocess):
    backbone = load_backbone(f"local-dir:{folder(preprocess_cfg=preprocess)}", device="cpu")
    given = ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)) if preprocess and len(preprocess) == 2 else (CLIP_MEAN, CLIP_STD)
    assert (backbone.mean, backbone.std) == given


@pytest.mark.parametrize("file", HUB_FILES)
def test_hub_name_from_the_cache(tmp_path, state, file):
    root = tmp_path / "models--org--net"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    snapshot = root / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / CONFIG_FILE).write_text(json.dumps({"model_cfg": MODEL_CFG, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3]}}))
    (save_file if file.endswith("safetensors") else torch.save)(state, snapshot / file)
    backbone = load_backbone("hf-hub:org/net", cache_dir=tmp_path, local_files_only=True, device="cpu")
    assert same_weights(backbone.clip, state)
    assert (backbone.mean, backbone.std) == ((0.1, 0.2, 0.3), CLIP_STD)
    assert backbone.encode_text(["a screw"]).shape == (1, 24)


def test_check_available_gives_the_checked_file(tmp_path, golden_name, golden_dir, arch, state):
    assert check_available(golden_name).weights == golden_dir / "model" / HUB_FILES[0]
    save_file(state, tmp_path / "w.safetensors")
    found = check_available(str(tmp_path / "w.safetensors"), arch=arch)
    assert found.sha256 == sha256_of(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ViT-B-16-plus-240:laion400m_e32", UnavailableError),
        ("hf-hub:org/net", UnavailableError),
        ("local-dir:absent", UnavailableError),
        ("ViT-B-16-plus-240:laion400m_e33", UsageError),
    ],
)
def test_check_available_of_what_is_not(tmp_path, name, error):
    with pytest.raises(error):
        check_available(name, cache_dir=tmp_path)


# --- what is refused


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["archive", "plain pickle"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, arch, how):
    path, marker = tmp_path / "w.pt", tmp_path / "ran"
    if how == "archive":
        torch.save({"state_dict": Code(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Code(marker)}))
    with pytest.raises(CheckpointError, match="safetensors"):
        load_backbone(str(path), arch=arch, device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors"])
@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"\x80\x04", b"PK\x03\x04"])
def test_file_that_is_no_checkpoint(tmp_path, arch, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name):
        load_backbone(str(tmp_path / name), arch=arch, device="cpu")


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    "change",
    [
        lambda state: without(state, "visual.conv1.weight"),
        lambda state: {**state, "visual.extra": torch.zeros(1)},
        lambda state: {**state, "visual.proj": torch.zeros(32, 48)},
        lambda state: {"weight": torch.zeros(1)},
        pytest.param(
            lambda state: {**state, "visual.positional_embedding": torch.zeros(26, 32)},
            id="of another image size, as ViT-L-14-336 is to ViT-L-14",
        ),
    ],
)
def test_weights_of_another_architecture(tmp_path, arch, state, change):
    save_file(change(state), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="do not fit"):
        load_backbone(str(tmp_path / "w.safetensors"), arch=arch, device="cpu")


@pytest.mark.parametrize(
    "model_cfg",
    [
        {"embed_dim": 24, "vision_cfg": VISION_CFG},
        {"embed_dim": 24, "vision_cfg": None, "text_cfg": TEXT_CFG},
        {"embed_dim": 24, "vision_cfg": VISION_CFG, "text_cfg": None},
        {"embed_dim": 24, "vision_cfg": {**VISION_CFG, "unknown": 1}, "text_cfg": TEXT_CFG},
        {**MODEL_CFG, "unknown": 1},
    ],
)
def test_configuration_that_nothing_can_be_built_from(folder, model_cfg):
    with pytest.raises(CheckpointError):
        load_backbone(f"local-dir:{folder(model_cfg=model_cfg)}", device="cpu")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ViT-B-16-plus-24:laion400m_e32", "'ViT-B-16-plus-240'"),
        ("vit-b-32:openai", "'ViT-B-32'"),
        ("ViT-B-16-plus-240:laion400_e32", "'laion400m_e32'"),
        ("ViT-B-16-plus-240:openai", "valid: laion400m_e31, laion400m_e32"),
    ],
)
def test_unknown_name_is_told_the_nearest(name, nearest):
    with pytest.raises(UsageError) as error:
        load_backbone(name, device="cpu")
    assert nearest in str(error.value)


def test_unknown_architecture_of_a_file(tmp_path):
    with pytest.raises(UsageError, match="'ViT-B-16'"):
        load_backbone(str(tmp_path / "w.pt"), arch="ViT-B16", device="cpu")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ViT-B-16-SigLIP:webli", "timm's vit_base_patch16_siglip_224"),
        ("convnext_base:laion400m_s13b_b51k", "timm's convnext_base"),
        ("EVA02-B-16:merged2b_s8b_b131k", "timm's"),
        ("coca_ViT-B-32:laion2b_s13b_b90k", "CoCa"),
    ],
)
def test_unsupported_tower_says_why(name, why):
    with pytest.raises(UsageError, match=why) as error:
        load_backbone(name, device="cpu")
    assert "anovl models" in str(error.value)


@pytest.mark.parametrize(
    ("vision", "why"),
    [
        ({"timm_model_name": "vit_tiny_patch16_224"}, "timm"),
        ({"attentional_pool": True, "attn_pooler_heads": 4}, "pooler"),
        ({"qk_norm": True}, "attention blocks"),
        ({"block_type": "custom"}, "attention blocks"),
    ],
)
def test_unsupported_tower_in_a_folder(folder, vision, why):
    path = folder(model_cfg={**MODEL_CFG, "vision_cfg": {**VISION_CFG, **vision}})
    with pytest.raises(UsageError, match=why):
        load_backbone(f"local-dir:{path}", device="cpu")


@pytest.mark.parametrize("vision", [{"attentional_pool": True, "attn_pooler_heads": 4}, {"qk_norm": True}, {"pool_type": "none"}])
def test_unsupported_tower_of_a_built_model(tiny_clip, tokenizer, vision):
    with pytest.raises(UsageError, match="VisionTransformer"):
        Backbone.from_clip(tiny_clip(**vision), tokenizer, weights_id="x")


def test_model_without_image_tower(tokenizer):
    with pytest.raises(UsageError, match="NoneType"):
        Backbone.from_clip(nn.Linear(2, 2), tokenizer, weights_id="x")


@pytest.mark.parametrize(
    ("device", "text"), [("gpu", "'cpu'|'cuda'"), ("cudaa", "'cuda'"), ("xpu", "not available"), ("", "valid")]
)
def test_unknown_device(device, text):
    with pytest.raises(UsageError, match=text):
        pick_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_device(golden_name):
    with pytest.raises(UsageError, match="cuda is not available"):
        load_backbone(golden_name, device="cuda")
    if not torch.backends.mps.is_available():
        assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("dtype", "text"), [("fp23", "'fp32'"), ("bf-16", "'bf16'"), (torch.float64, "float64"), (torch.int8, "int8")]
)
def test_unknown_dtype(dtype, text):
    with pytest.raises(UsageError, match=text):
        pick_dtype(dtype)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16), (torch.float16, torch.float16)],
)
def test_pick_dtype(given, dtype):
    assert pick_dtype(given) is dtype


@pytest.mark.skipif(importlib.util.find_spec("transformers") is not None, reason="transformers is installed")
@pytest.mark.parametrize("name", ["hf_tokenizer_name", "hf_model_name"])
def test_text_tower_that_needs_transformers(folder, name):
    path = folder(model_cfg={**MODEL_CFG, "text_cfg": {**TEXT_CFG, name: "org/none"}})
    with pytest.raises(MissingExtraError, match="transformers") as error:
        load_backbone(f"local-dir:{path}", device="cpu")
    assert error.value.exit_code == 5


# --- precision


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-6), ("bf16", 0.03), ("fp16", 0.005)])
def test_precisions_run_on_the_cpu(folder, clip, dtype, tolerance):
    backbone = load_backbone(f"local-dir:{folder()}", device="cpu", dtype=dtype)
    assert backbone.dtype == pick_dtype(dtype)
    assert backbone.describe()["dtype"] == str(pick_dtype(dtype)).removeprefix("torch.")
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        class_token, local = backbone.encoder()(images)
        expected = clip.encode_image(images)
        words = clip.encode_text(backbone.tokenizer(["a metal nut"]))
    assert local.isfinite().all()
    text = backbone.encode_text(["a metal nut"])
    assert text.dtype == torch.float32
    for got, want in ((class_token.float(), expected), (text, words)):
        assert (got - want).norm() <= tolerance * want.norm()


# --- image size


@pytest.mark.parametrize(
    ("size", "pair"), [(64, (64, 64)), (96, (96, 96)), (32, (32, 32)), ((64, 96), (64, 96)), ((128, 48), (128, 48))]
)
def test_image_size_as_open_clip_resizes_it(folder, size, pair):
    path = folder()
    backbone = load_backbone(f"local-dir:{path}", device="cpu", image_size=size)
    encoder, grid = backbone.encoder(), (pair[0] // 16, pair[1] // 16)
    assert backbone.image_size == encoder.image_size == pair
    assert backbone.resized == (pair != (64, 64))
    assert encoder.grid == grid
    other = open_clip.create_model(f"local-dir:{path}", force_image_size=pair).eval()
    torch.testing.assert_close(encoder.positional_embedding, other.visual.positional_embedding.detach(), rtol=0, atol=1e-6)
    images = torch.randn(2, 3, *pair)
    with torch.no_grad():
        class_token, local = encoder(images)
        torch.testing.assert_close(class_token, other.encode_image(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backbone.encoder().encode_class(images), class_token, rtol=1e-5, atol=1e-5)
    assert local.shape == (2, grid[0] * grid[1], 24)


def test_image_size_of_a_resnet(tiny_clip, tokenizer):
    clip = tiny_clip("resnet")
    backbone = Backbone.from_clip(clip, tokenizer, image_size=(96, 64), weights_id="x")
    encoder = backbone.encoder()
    class_token, local = encoder(torch.randn(1, 3, 96, 64))
    assert (encoder.grid, class_token.shape, local.shape) == ((3, 2), (1, 24), (1, 6, 24))
    assert Backbone.from_clip(clip, tokenizer, weights_id="x").image_size == (64, 64)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (250, "got 250; 240 or 256"),
        (239, "got 239; 224 or 240"),
        ((240, 250), "got 250; 240 or 256"),
        ((17, 240), "got 17; 16 or 32"),
        (0, "got 0"),
        (-16, "got -16"),
        ((240,), "expected pixels"),
        ((240, 240, 3), "expected pixels"),
        ("240", "expected pixels"),
        (240.0, "expected pixels"),
    ],
)
def test_image_size_that_does_not_fit(golden_name, size, text):
    with pytest.raises(UsageError, match="image_size") as error:
        load_backbone(golden_name, device="cpu", image_size=size)
    assert text in str(error.value)


def test_image_size_of_a_resnet_that_does_not_fit(tiny_clip, tokenizer):
    with pytest.raises(UsageError, match="multiple of 32 pixels, got 80; 64 or 96"):
        Backbone.from_clip(tiny_clip("resnet"), tokenizer, image_size=(80, 80), weights_id="x")


# --- text

SHORT = ["a screw", "a photo of a damaged metal nut with a scratch", "", "ein größeres Stück!"]
LONG = ["a close-up industrial photo of the " + "very " * 60 + "old carpet", "x"]


@pytest.mark.parametrize(
    "sentences", [SHORT, LONG, SHORT + LONG, [f"photo number {i}" + " long" * (i % 7) for i in range(2 * TEXT_BATCH + 3)]]
)
def test_encode_text_is_open_clips(golden_backbone, sentences):
    got = golden_backbone.encode_text(sentences)
    with torch.no_grad():
        want = golden_backbone.clip.encode_text(golden_backbone.tokenizer(sentences))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_loading_leaves_the_root_logger_alone(golden_name):
    root = logging.getLogger()
    before = list(root.handlers)
    root.handlers = []
    try:
        load_backbone(golden_name, device="cpu")
        assert root.handlers == []
    finally:
        root.handlers = before


def test_encode_text_of_nothing(golden_backbone):
    with pytest.raises(UsageError, match="at least one sentence"):
        golden_backbone.encode_text([])


@pytest.mark.parametrize(
    "settings",
    [
        {"proj_bias": True},
        {"proj_type": "none", "width": 24},
        {"no_causal_mask": True},
        {"pool_type": "last"},
        {"pool_type": "first"},
    ],
)
@pytest.mark.parametrize("model", ["CLIP", "CustomTextCLIP"])
def test_encode_text_of_other_text_towers(tokenizer, settings, model):
    torch.manual_seed(0)
    clip = getattr(open_clip, model)(24, VISION_CFG, {**TEXT_CFG, **settings})
    backbone = Backbone.from_clip(clip, tokenizer, weights_id="x")
    got = backbone.encode_text(SHORT)
    with torch.no_grad():
        torch.testing.assert_close(got, clip.encode_text(tokenizer(SHORT)), rtol=0, atol=1e-5)


def test_prompt_that_just_fits(golden_backbone):
    sentence = " ".join(["nut"] * 75)  # and the start and the end: 77
    assert int((golden_backbone.tokenizer([sentence]) != 0).sum()) == 77
    assert golden_backbone.encode_text([sentence]).isfinite().all()


def test_prompt_that_is_too_long_is_shown(golden_backbone):
    sentence = " ".join(["bolt", *["nut"] * 75])
    with pytest.raises(UsageError, match="77 tokens") as error:
        golden_backbone.encode_text(["a screw", sentence])
    assert repr(sentence) in str(error.value)


def test_context_length_is_the_models(folder):
    text_cfg = {**TEXT_CFG, "context_length": 16}
    torch.manual_seed(0)
    weights = open_clip.CLIP(24, VISION_CFG, text_cfg).state_dict()
    path = folder(weights, model_cfg={**MODEL_CFG, "text_cfg": text_cfg})
    backbone = load_backbone(f"local-dir:{path}", device="cpu")
    assert backbone.context_length == 16
    assert backbone.encode_text([" ".join(["nut"] * 14)]).shape == (1, 24)
    with pytest.raises(UsageError, match="16 tokens"):
        backbone.encode_text([" ".join(["nut"] * 15)])


def test_logit_scale_is_exponentiated(tiny_clip, tokenizer):
    clip = tiny_clip()
    clip.logit_scale.fill_(2.0)
    assert Backbone.from_clip(clip, tokenizer, weights_id="x").logit_scale == pytest.approx(7.389056)


# --- identity


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_weights_id_of_a_built_model(tiny_clip, tokenizer, kind):
    one, same, other = (Backbone.from_clip(tiny_clip(kind, seed=seed), tokenizer).weights_id for seed in (0, 0, 1))
    assert one == same != other
    assert len(one) == 64


def test_weights_id_sees_every_tensor(tiny_clip, tokenizer):
    clip = tiny_clip()
    before = Backbone.from_clip(clip, tokenizer).weights_id
    clip.logit_scale.add_(1)
    assert Backbone.from_clip(clip, tokenizer).weights_id != before


def test_weights_id_of_a_file_is_its_sha256(tmp_path, arch, state):
    ids = []
    for name in ("one", "other"):
        save_file(state, tmp_path / f"{name}.safetensors")
        ids.append(load_backbone(str(tmp_path / f"{name}.safetensors"), arch=arch, device="cpu").weights_id)
        state["logit_scale"] += 1
    assert ids == [sha256_of(tmp_path / f"{name}.safetensors") for name in ("one", "other")]
    assert ids[0] != ids[1]


# --- what there is


def test_list_models_are_all_supported():
    models = list(list_models())
    assert ("ViT-B-16-plus-240", "laion400m_e32") in models
    assert ("RN50", "openai") in models
    assert len(models) == len(set(models)) > 50
    for arch in {arch for arch, _ in models}:
        assert {tag for a, tag in models if a == arch} == set(open_clip_tags(arch))


@pytest.mark.parametrize("family", ["SigLIP", "coca", "convnext", "EVA", "ViTamin", "MobileCLIP", "PE-Core"])
def test_list_models_has_no_other_towers(family):
    assert not [arch for arch, _ in list_models() if family in arch]


def test_every_listed_model_has_an_address_that_can_be_loaded():
    for arch, tag in list_models():
        entry = open_clip_tags(arch)[tag]
        assert entry.get("hf_hub") or "openaipublic" not in entry["url"], f"{arch}:{tag} is a TorchScript archive only"
