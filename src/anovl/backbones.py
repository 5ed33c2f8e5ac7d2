"""Names and files -> a frozen CLIP with its tokenizer; the only module that knows open_clip."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from anovl.checkpoints import Checkpoint, ModelName, locate, own_settings, parse_model_name
from anovl.config import DEFAULT_RECIPE, Attention
from anovl.core.encoder import Encoder, ResNetEncoder, ViTEncoder
from anovl.devices import pick_device, pick_dtype
from anovl.errors import CheckpointError, MissingExtraError, UnavailableError, UsageError, suggest

log = logging.getLogger(__name__)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TEXT_BATCH = 128  # prompts a pass


@contextmanager
def _quiet_root() -> Iterator[None]:
    """Keep open_clip's calls of logging.info() from installing a handler on the user's root logger."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP on a device.

    Attributes:
        name: as the user gave it.
        clip: the open_clip model, in eval mode, without gradients.
        tokenizer: sentences, context_length -> token ids [N, context_length].
        image_size: (H, W) of the image tower's input.
        mean, std: per channel, on the [0, 1] scale.
        weights_id: sha256 of the weight file, or of the tensors where there is none.
        recipe: name of the recipe that the model's makers chose for it, "default" where they chose none.
        note: what its makers want users to know, for the log and for run.json.
    """

    name: str
    clip: nn.Module = field(repr=False)
    tokenizer: Callable[..., Tensor] = field(repr=False)
    image_size: tuple[int, int]
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    weights_id: str = ""
    resized: bool = False  # image_size differs from the training size
    recipe: str = DEFAULT_RECIPE
    note: str = ""

    @classmethod
    def from_clip(
        cls,
        clip: nn.Module,
        tokenizer: Callable[..., Tensor],
        *,
        name: str = "custom",
        image_size: tuple[int, int] | None = None,
        weights_id: str | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        recipe: str = DEFAULT_RECIPE,
        note: str = "",
    ) -> Backbone:
        """Wrap an open_clip model that is already built (it is set to eval mode and frozen).

        Raises:
            UsageError: its image tower is neither CLIP's ViT nor CLIP's ResNet, or image_size does not fit it.
        """
        clip.eval().requires_grad_(requires_grad=False)
        _tower(clip)
        trained = _pair(cast("Any", clip).visual.image_size)
        backbone = cls(
            name=name,
            clip=clip,
            tokenizer=tokenizer,
            image_size=image_size or trained,
            mean=cast("tuple[float, float, float]", tuple(mean)),
            std=cast("tuple[float, float, float]", tuple(std)),
            weights_id=_state_hash(clip) if weights_id is None else weights_id,
            resized=image_size is not None and image_size != trained,
            recipe=recipe,
            note=note,
        )
        backbone.encoder()  # an image_size that does not fit is an error now, not at the first picture
        return backbone

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.clip.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept and computed in."""
        return next(self.clip.parameters()).dtype

    @property
    def logit_scale(self) -> float:
        """The factor on cosines this CLIP was trained with (its temperature's inverse, 100 for OpenAI's)."""
        return float(cast("Any", self.clip).logit_scale.float().exp().mean())

    @property
    def context_length(self) -> int:
        """Tokens of the text tower's input, start and end included."""
        return int(getattr(self.clip, "context_length", 77))

    def encoder(self, attention: Attention = "vv", layers: int | None = None) -> Encoder:
        """The image tower with a local path; encoders share the weights, so that making one costs nothing."""
        make = _tower(self.clip)
        size = self.image_size if self.resized else None
        return make(cast("Any", self.clip).visual, attention=attention, layers=layers, image_size=size).eval()

    @torch.inference_mode()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Text embeddings.

        Args:
            sentences: N prompts.

        Returns:
            [N, C] fp32 on the backbone's device, not normalised.

        Raises:
            UsageError: a prompt is longer than the text tower's context; the message shows it.
        """
        chunks = [self._encode_tokens(chunk.to(self.device)).float() for chunk in self.tokenize(sentences).split(TEXT_BATCH)]
        return torch.cat(chunks)

    def describe(self) -> dict[str, Any]:
        """What run.json says about the model."""
        described = {
            "name": self.name,
            "weights_sha256": self.weights_id,
            "image_size": list(self.image_size),
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return described | ({"note": self.note} if self.note else {})

    def tokenize(self, sentences: Sequence[str]) -> Tensor:
        """Token ids [N, context_length] on the CPU.

        Raises:
            UsageError: no sentence, or one that would be cut; the message shows it.
        """
        if not sentences:
            raise UsageError("text: expected at least one sentence")
        length = self.context_length  # a sentence that is cut changes with room for one more token
        tokens = self.tokenizer(list(sentences), context_length=length)
        roomier = self.tokenizer(list(sentences), context_length=length + 1)
        cut = (tokens != roomier[:, :length]).any(dim=1).nonzero()
        if len(cut):
            sentence = sentences[int(cut[0])]
            raise UsageError(f"prompt longer than the {length} tokens this model reads: {sentence!r}; shorten the words")
        return tokens

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Encode token ids [N, L]; a causal text tower does not need the padding behind the longest sentence."""
        clip = cast("Any", self.clip)
        import open_clip

        if not isinstance(clip, open_clip.CLIP) or clip.attn_mask is None or clip.text_pool_type != "argmax":
            return cast("Tensor", clip.encode_text(tokens))
        ends = tokens.argmax(dim=-1)  # the end token has the highest id
        length = int(ends.max()) + 1
        x = clip.token_embedding(tokens[:, :length]).to(self.dtype) + clip.positional_embedding[:length].to(self.dtype)
        x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
        x = clip.ln_final(x[torch.arange(len(x), device=x.device), ends])
        if isinstance(clip.text_projection, nn.Linear):
            return cast("Tensor", clip.text_projection(x))
        return x if clip.text_projection is None else cast("Tensor", x @ clip.text_projection)


def load_backbone(
    name: str,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    image_size: int | tuple[int, int] | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    arch: str | None = None,
) -> Backbone:
    """Load a CLIP by name.

    Args:
        name: of an embedded model, "mini"; "ARCH:TAG" of open_clip; "hf-hub:ORG/NAME"; "local-dir:FOLDER"; a weight file.
        device: "auto" (cuda, then mps, then cpu), a torch device or its name.
        dtype: "auto" (fp32), "fp32", "bf16", "fp16" or the torch dtype.
        image_size: another input size than the training size, S or (H, W), multiples of the patch size.
        local_files_only: never touch the network.
        cache_dir: where checkpoints are kept (default: ANOVL_CACHE, else open_clip's own places).
        arch: the architecture of a weight file.

    Raises:
        UsageError: not a name, device, dtype or image size that exists; the message names the nearest.
        UnavailableError: the files are not here and could not or must not be fetched (exit code 5).
        CheckpointError: the file is not the one asked for, not safe to load, or of another architecture.
    """
    target, kind = pick_device(device), pick_dtype(dtype)
    parsed, checkpoint, tag = _find(name, arch, cache_dir, local_files_only=local_files_only)
    preprocess = checkpoint.config.get("preprocess_cfg") or tag
    with _quiet_root():
        clip = _build(parsed, checkpoint, quick_gelu=bool(tag.get("quick_gelu")))
        tokenizer = _tokenizer(parsed, checkpoint)
    size = None if image_size is None else _pair(image_size)
    return Backbone.from_clip(
        clip.to(device=target, dtype=kind),
        tokenizer,
        name=name,
        image_size=size,
        weights_id=checkpoint.sha256,
        mean=preprocess.get("mean") or CLIP_MEAN,
        std=preprocess.get("std") or CLIP_STD,
        **own_settings(checkpoint),
    )


def list_models() -> Iterator[tuple[str, str]]:
    """(ARCH, TAG) of every open_clip checkpoint that this package can run."""
    import open_clip

    for arch, tag in open_clip.list_pretrained():
        if _unsupported(open_clip.get_model_config(arch)) is None:
            yield arch, tag


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise UsageError(f"image_size: expected pixels S or (H, W), got {size!r}")
    return pair[0], pair[1]


def _tower(clip: nn.Module) -> Callable[..., Encoder]:
    """The encoder class for a model's image tower."""
    import open_clip

    visual = getattr(clip, "visual", None)
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        plain = all(type(block).__name__ == "ResidualAttentionBlock" for block in visual.transformer.resblocks)
        if plain and visual.attn_pool is None and visual.pool_type in ("tok", "avg"):
            return ViTEncoder
    elif isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return ResNetEncoder
    raise UsageError(f"image tower {type(visual).__name__}: expected CLIP's ViT with plain attention blocks or CLIP's ResNet")


def _unsupported(config: Mapping[str, Any] | None) -> str | None:
    """Why an open_clip configuration cannot be run, told before anything is built; None if it can."""
    vision = (config or {}).get("vision_cfg") or {}
    custom = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    if vision.get("timm_model_name"):
        return f"its image tower is timm's {vision['timm_model_name']}, which has no CLIP class token"
    if vision.get("attentional_pool") or (config or {}).get("multimodal_cfg"):
        return "its image tower ends in an attentional pooler (CoCa)"
    if any(vision.get(name) for name in custom) or vision.get("block_type") == "custom":
        return "its image tower has attention blocks of its own kind"
    return None


def open_clip_tags(arch: str) -> dict[str, Any]:
    """open_clip's entries of all tags of an architecture, by tag.

    Raises:
        UsageError: no such architecture, or one that this package cannot run.
    """
    import open_clip

    config = open_clip.get_model_config(arch)
    if config is None:
        raise UsageError(suggest("architecture", arch, open_clip.list_models(), "`anovl models` lists all"))
    if reason := _unsupported(config):
        raise UsageError(f"{arch} cannot be used: {reason}; `anovl models` lists what can")
    return {tag: open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)}


def check_available(name: str, *, arch: str | None = None, cache_dir: str | Path | None = None) -> Checkpoint:
    """The checked files of a model, without loading it and without the network.

    Raises:
        UsageError, UnavailableError, CheckpointError: as `load_backbone`.
    """
    return _find(name, arch, cache_dir, local_files_only=True)[1]


def _find(
    name: str, arch: str | None, cache_dir: str | Path | None, *, local_files_only: bool
) -> tuple[ModelName, Checkpoint, dict[str, Any]]:
    """A parsed name, its files and open_clip's entry of its tag (empty for other kinds of names)."""
    parsed = parse_model_name(name, arch)
    tags = open_clip_tags(parsed.arch) if parsed.arch else {}
    if parsed.kind == "tag" and parsed.target not in tags:
        raise UsageError(suggest(f"tag of {parsed.arch}", parsed.target, tags))
    folder = None if cache_dir is None else Path(cache_dir)
    checkpoint = locate(parsed, tags, cache_dir=folder, local_files_only=local_files_only)
    return parsed, checkpoint, tags[parsed.target] if parsed.kind == "tag" else {}


def _build(name: ModelName, checkpoint: Checkpoint, *, quick_gelu: bool) -> nn.Module:
    """The model with its weights, on the CPU in fp32."""
    import open_clip

    config = checkpoint.config["model_cfg"] if checkpoint.folder else open_clip.get_model_config(str(name.arch))
    if reason := _unsupported(config):
        raise UsageError(f"{name.text} cannot be used: {reason}")
    text = config.get("text_cfg") or {}
    if text.get("hf_model_name"):
        if find_spec("transformers") is None:
            raise MissingExtraError(
                f"the text tower of {name.text} needs a package that is not installed: pip install transformers"
            )
        text["hf_model_pretrained"] = False  # its weights are in the checkpoint
    text_on_its_own = bool(config.pop("custom_text", False)) or bool(text.get("hf_model_name"))
    if quick_gelu:  # the tag was trained with it, whatever the architecture's default
        config["quick_gelu"] = True
    try:
        clip = (open_clip.CustomTextCLIP if text_on_its_own else open_clip.CLIP)(**config)
    except Exception as exc:  # a wrong configuration fails anywhere inside the constructors
        raise CheckpointError(f"{name.text}: open_clip cannot build it ({type(exc).__name__}: {exc})") from exc
    if name.kind == "file":
        _check_positions(clip, checkpoint.weights, str(name.arch))
    try:
        open_clip.load_checkpoint(clip, str(checkpoint.weights), strict=True, weights_only=True)
    except UnpicklingError as exc:
        raise CheckpointError(
            f"{checkpoint.weights}: is damaged, or holds more than tensors and is refused; safetensors would do"
        ) from exc
    except Exception as exc:
        text = " ".join(str(exc).split())
        raise CheckpointError(f"{checkpoint.weights}: these weights do not fit {name.arch or name.text} ({text[:300]})") from exc
    return cast("nn.Module", clip)


def _check_positions(clip: nn.Module, weights: Path, arch: str) -> None:
    """Refuse a file of the same network at another size, whose position embeddings would be resampled silently.

    Raises:
        CheckpointError: ViT-L-14-336 weights named as ViT-L-14, say.
    """
    key = "visual.positional_embedding"
    own = clip.state_dict().get(key)
    try:
        if weights.suffix == ".safetensors":
            with safe_open(weights, "pt") as stored:
                shape = stored.get_slice(key).get_shape() if key in stored.keys() else None  # noqa: SIM118
        else:
            state = torch.load(weights, map_location="meta", weights_only=True)
            state = state.get("state_dict", state)
            shape = next((list(value.shape) for name, value in state.items() if name.removeprefix("module.") == key), None)
    except Exception:
        log.debug("%s: shapes cannot be read; loading will tell why", weights, exc_info=True)
        return
    if own is not None and shape is not None and list(shape) != list(own.shape):
        raise CheckpointError(
            f"{weights}: these weights do not fit {arch}: {shape[0]} position embeddings, {arch} has {own.shape[0]}; "
            "name the architecture of their image size"
        )


def _tokenizer(name: ModelName, checkpoint: Checkpoint) -> Callable[..., Tensor]:
    import open_clip

    spec = f"local-dir:{checkpoint.folder}" if checkpoint.folder else str(name.arch)
    text = checkpoint.config.get("model_cfg", {}).get("text_cfg") or {}
    merges = (text.get("tokenizer_kwargs") or {}).get("bpe_path")  # its own byte pairs, beside the weights
    own = {"bpe_path": str(Path(str(checkpoint.folder)) / merges)} if merges else {}
    try:
        return cast("Callable[..., Tensor]", open_clip.get_tokenizer(spec, **own))
    except ImportError as exc:
        raise MissingExtraError(f"{name.text}: its tokenizer needs a package that is not installed ({exc})") from exc
    except (OSError, ValueError, AssertionError) as exc:
        raise UnavailableError(f"{name.text}: its tokenizer cannot be loaded ({exc})") from exc


def _state_hash(clip: nn.Module) -> str:
    """sha256 over names and values of all tensors, for models without a file."""
    digest = hashlib.sha256()
    for key, tensor in sorted(clip.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
