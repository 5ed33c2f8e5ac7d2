"""Text features are computed once per weights, precision and prompts, and a bad cache costs only time."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from anovl.backbones import Backbone, load_backbone
from anovl.core.prompts import PromptSet
from anovl.core.scoring import text_features
from anovl.engine import text
from anovl.engine.text import IN_MEMORY, TextCache
from anovl.errors import UsageError

PROMPTS = PromptSet("screw", ("a normal screw", "a perfect screw"), ("a damaged screw", "an imperfect screw"))


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, ...]]:
    """The sentences of every call of the text tower."""
    seen = []
    encode = Backbone.encode_text

    def count(self, sentences):
        seen.append(tuple(sentences))
        return encode(self, sentences)

    monkeypatch.setattr(Backbone, "encode_text", count)
    return seen


@pytest.fixture
def uncached(golden_backbone):
    embeddings = golden_backbone.encode_text([*PROMPTS.normal, *PROMPTS.abnormal])
    return text_features(embeddings[:2], embeddings[2:])


def same(one, other) -> bool:
    return all(torch.equal(a, b) and a.dtype == b.dtype == torch.float32 for a, b in zip(one[:2], other[:2], strict=True))


def stored(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def prompts(number: int) -> PromptSet:
    return PromptSet(f"part {number}", (f"a normal part {number}",), (f"a damaged part {number}",))


def test_features_are_those_of_the_prompts(golden_backbone, tmp_path, uncached):
    features = TextCache(golden_backbone, tmp_path).features(PROMPTS)
    assert same(features, uncached)
    assert features.prototypes.shape == (2, 48)
    assert features.tokens.shape == (4, 48)
    assert features.tokens.norm(dim=-1).allclose(torch.ones(4))


def test_second_call_encodes_nothing(golden_backbone, tmp_path, calls):
    cache = TextCache(golden_backbone, tmp_path)
    first = cache.features(PROMPTS)
    for path in stored(tmp_path):
        path.unlink()  # from memory, not from disk
    assert cache.features(PROMPTS) is first
    assert calls == [(*PROMPTS.normal, *PROMPTS.abnormal)]


def test_second_instance_reads_from_disk(golden_backbone, tmp_path, calls, uncached):
    TextCache(golden_backbone, tmp_path).features(PROMPTS)
    calls.clear()
    assert same(TextCache(golden_backbone, tmp_path).features(PROMPTS), uncached)
    assert calls == []
    assert [path.suffix for path in stored(tmp_path)] == [".safetensors"]  # nothing half-written beside it


def test_folder_is_the_environments(golden_backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("ANOVL_CACHE", str(tmp_path / "env"))
    TextCache(golden_backbone).features(PROMPTS)
    assert len(stored(tmp_path / "env" / "prototypes")) == 1


def test_class_name_alone_is_no_new_key(golden_backbone, tmp_path, calls):
    cache = TextCache(golden_backbone, tmp_path)
    cache.features(PROMPTS)
    cache.features(PromptSet("Screw", PROMPTS.normal, PROMPTS.abnormal))
    assert len(calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        PromptSet("screw", PROMPTS.abnormal, PROMPTS.normal),
        PromptSet("screw", PROMPTS.normal[::-1], PROMPTS.abnormal[::-1]),
        PromptSet("screw", PROMPTS.normal, (*PROMPTS.abnormal[:1], "a broken screw")),
        PromptSet("screw", ("a normal screw, a perfect screw",), ("a damaged screw, an imperfect screw",)),
    ],
)
def test_other_prompts_are_another_key(golden_backbone, tmp_path, calls, other):
    TextCache(golden_backbone, tmp_path).features(PROMPTS)
    features = TextCache(golden_backbone, tmp_path).features(other)
    assert calls[1:] == [(*other.normal, *other.abnormal)]
    embeddings = golden_backbone.encode_text(calls[1])
    assert same(features, text_features(*embeddings.split(len(other.normal))))


def test_other_weights_are_another_key(golden_backbone, tmp_path, calls):
    TextCache(golden_backbone, tmp_path).features(PROMPTS)
    TextCache(replace(golden_backbone, weights_id="other"), tmp_path).features(PROMPTS)
    assert len(calls) == len(stored(tmp_path)) == 2


def test_other_precision_is_another_key(golden_backbone, golden_name, tmp_path, calls):
    exact = TextCache(golden_backbone, tmp_path).features(PROMPTS)
    rough = TextCache(load_backbone(golden_name, device="cpu", dtype="bf16"), tmp_path).features(PROMPTS)
    assert len(calls) == 2
    assert not torch.equal(exact.tokens, rough.tokens)


def test_other_image_size_is_the_same_key(golden_name, golden_backbone, tmp_path, calls):
    TextCache(golden_backbone, tmp_path).features(PROMPTS)
    TextCache(load_backbone(golden_name, device="cpu", image_size=64), tmp_path).features(PROMPTS)
    assert len(calls) == 1


def tensors(prototypes: tuple[int, ...], tokens: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {"prototypes": torch.zeros(prototypes), "tokens": torch.zeros(tokens)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not safetensors",
        "cut",
        {"prototypes": torch.zeros(2, 48)},
        tensors((2, 48), (6, 48)),
        tensors((3, 48), (4, 48)),
        tensors((2, 40), (4, 48)),
        tensors((2,), (4, 48)),
        tensors((), (4, 48)),
    ],
    ids=lambda content: (
        repr(content)[:9] if not isinstance(content, dict) else "-".join(str(tuple(t.shape)) for t in content.values())
    ),
)
def test_broken_file_is_said_and_rewritten(golden_backbone, tmp_path, calls, caplog, uncached, content):
    TextCache(golden_backbone, tmp_path).features(PROMPTS)
    (path,) = stored(tmp_path)
    if isinstance(content, dict):
        save_file(content, path)
    else:
        path.write_bytes(path.read_bytes()[:-100] if content == "cut" else content)
    calls.clear()
    with caplog.at_level(logging.WARNING, logger="anovl"):
        assert same(TextCache(golden_backbone, tmp_path).features(PROMPTS), uncached)
    assert len(calls) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert same(TextCache(golden_backbone, tmp_path).features(PROMPTS), uncached)
    assert len(calls) == 1


def test_folder_that_cannot_be_made_is_said_once(golden_backbone, tmp_path, calls, caplog, uncached):
    (tmp_path / "file").write_text("in the way")
    cache = TextCache(golden_backbone, tmp_path / "file" / "cache")
    calls.clear()
    with caplog.at_level(logging.WARNING, logger="anovl"):
        assert same(cache.features(PROMPTS), uncached)
        cache.features(prompts(1))
        cache.features(PROMPTS)
    assert len(calls) == 2
    assert len(caplog.records) == 1
    assert "not kept on disk" in caplog.text


def test_full_disk_is_said_once(golden_backbone, tmp_path, caplog, monkeypatch, uncached):
    def full(tensors, filename):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # as it says it

    monkeypatch.setattr(text, "save_file", full)
    cache = TextCache(golden_backbone, tmp_path)
    with caplog.at_level(logging.WARNING, logger="anovl"):
        assert same(cache.features(PROMPTS), uncached)
        cache.features(prompts(1))
    assert len(caplog.records) == 1
    assert stored(tmp_path) == []


def test_memory_keeps_the_classes_used_last(golden_backbone, tmp_path, calls):
    (tmp_path / "file").write_text("in the way")  # no disk, so that what memory lost is encoded again
    cache = TextCache(golden_backbone, tmp_path / "file")
    for number in range(IN_MEMORY):
        cache.features(prompts(number))
    cache.features(prompts(0))
    assert len(calls) == IN_MEMORY
    cache.features(prompts(IN_MEMORY))  # drops 1, for 0 was used since
    calls.clear()
    cache.features(prompts(0))
    cache.features(prompts(2))
    cache.features(prompts(IN_MEMORY))
    assert calls == []
    cache.features(prompts(1))
    assert calls == [("a normal part 1", "a damaged part 1")]
    assert len(cache._memory) == IN_MEMORY


def test_prompt_that_is_too_long_leaves_nothing(golden_backbone, tmp_path):
    cache = TextCache(golden_backbone, tmp_path)
    with pytest.raises(UsageError, match="77 tokens"):
        cache.features(PromptSet("nut", ("nut " * 80,), ("a nut",)))
    assert stored(tmp_path) == []
    assert len(cache._memory) == 0
