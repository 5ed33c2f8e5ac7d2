"""Model names -> files on this machine, checked; downloads only when allowed. Nothing here builds a model.

Names: "mini", "mini-fine", "mini-captions" (embedded), "ARCH:TAG" (open_clip), "hf-hub:ORG/NAME", "local-dir:FOLDER", or a
.pt, .bin or .safetensors file with an architecture.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile, is_zipfile

from anovl.config import DEFAULT_RECIPE, RECIPES
from anovl.errors import CheckpointError, OutputError, UnavailableError, UsageError, suggest

log = logging.getLogger(__name__)

EMBEDDED = {  # name: sha256 of its weights
    "mini": "816ba39f8957c843d867892d2c083630db118faf02a5031dc944621ecbdb1a50",
    "mini-fine": "048a75eec83d032a68a8f34c9d203dd025c30fa95fdb8a60ed8090c568a07595",
    "mini-captions": "3e6a64687dd9cf388c352134b9fef2933cdef2900ee55dd6d68cde61d7d17330",
}
CONFIG_FILE = "open_clip_config.json"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # others there are of other libraries
WEIGHT_FILES = (*HUB_FILES, "model.safetensors", "pytorch_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

Kind = Literal["embedded", "tag", "hub", "folder", "file"]
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


@dataclass(frozen=True)
class ModelName:
    """A parsed name: its kind, what stands for it (tag, repository or path), and the architecture if named."""

    text: str
    kind: Kind
    target: str
    arch: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """Files of a model, ready to load.

    Attributes:
        weights: the file.
        sha256: of that file.
        folder: where open_clip_config.json lies, None where the architecture is a built-in of open_clip.
    """

    weights: Path
    sha256: str
    folder: Path | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What open_clip_config.json of the folder holds; empty without a folder."""
        return read_config(self.folder) if self.folder else {}


def parse_model_name(name: str, arch: str | None = None) -> ModelName:
    """Tell what kind of name it is, without looking at anything but the local file system.

    Raises:
        UsageError: none of the forms, or a file without `arch`; the message lists the forms.
    """
    if arch and not name.endswith(WEIGHT_SUFFIXES):
        raise UsageError(f"arch: only a weight file takes an architecture, {name!r} has its own; leave it out")
    if name in EMBEDDED:
        return ModelName(name, "embedded", name)
    for prefix, kind in (("local-dir:", "folder"), ("hf-hub:", "hub")):
        if name.startswith(prefix) and name != prefix:
            return ModelName(name, kind, name.removeprefix(prefix))  # type: ignore[arg-type]
    if name.endswith(".onnx"):
        takers = "`anovl predict`, `calibrate`, `serve`, and ExportedModel in Python"
        raise UsageError(f"{name}: expected a checkpoint, got an exported file, which is for {takers}")
    if name.endswith(WEIGHT_SUFFIXES):
        if not arch:
            raise UsageError(f"{name}: a weight file needs its architecture, such as arch='ViT-B-16' (--arch ViT-B-16)")
        return ModelName(name, "file", name, arch.replace("/", "-"))
    head, colon, tag = name.partition(":")
    if colon and head and tag:
        return ModelName(name, "tag", tag.lower().replace("-", "_"), head.replace("/", "-"))
    is_folder = os.path.isdir(name)  # noqa: PTH112 -- Path raises for what cannot be a path
    hint = f"; for that folder write 'local-dir:{name}'" if is_folder else ""
    raise UsageError(
        f"model: expected {', '.join(EMBEDDED)}, ARCH:TAG (such as ViT-B-16-plus-240:laion400m_e32), hf-hub:ORG/NAME, "
        f"local-dir:FOLDER or a .pt/.safetensors file with an architecture, got {name!r}{hint}"
    )


def cache_root(cache_dir: Path | None) -> Path | None:
    """Where checkpoints are kept: the argument, else ANOVL_CACHE, else None for open_clip's own places."""
    if cache_dir is not None:
        return cache_dir.expanduser()
    return Path(env).expanduser() if (env := os.environ.get("ANOVL_CACHE")) else None


def locate(name: ModelName, tag_config: Mapping[str, Any], *, cache_dir: Path | None, local_files_only: bool) -> Checkpoint:
    """Find the files of a model, downloading them where that is allowed and needed.

    Args:
        name: a parsed name.
        tag_config: for "ARCH:TAG", open_clip's entries of all tags of the architecture, by tag.
        cache_dir: see `cache_root`.
        local_files_only: never touch the network.

    Raises:
        UnavailableError: the file is not here and could not or must not be fetched.
        CheckpointError: the file here is not the one asked for, or not a format that is safe to load.
    """
    if name.kind == "embedded":
        folder = embedded_folder(name.target)
        if not folder.is_dir():
            raise UnavailableError(f"model {name.text!r} is not part of this build of anovl")
        return _in_folder(folder, EMBEDDED[name.target])
    if name.kind == "folder":
        return _in_folder(Path(name.target).expanduser())
    if name.kind == "file":
        path = Path(name.target).expanduser()
        urls = (entry.get("url", "") for entry in tag_config.values())
        expected = next((_url_hash(url) for url in urls if url.rsplit("/", 1)[-1] == path.name), None)
        return _checked(path, expected, tag_config)
    if name.kind == "hub":
        return _in_hub(name.target, cache_dir, name.text, local_files_only=local_files_only, config=True)
    return _of_tag(name, tag_config, cache_dir, local_files_only=local_files_only)


def embedded_folder(name: str) -> Path:
    """Where an embedded model lies in the installed package, whether or not this build has it."""
    return Path(str(files("anovl"))) / "assets" / name


def find_local(name: ModelName, tags: Mapping[str, Any], cache_dir: Path | None) -> Path | None:
    """The weight file of an "ARCH:TAG" name if it is on this machine, unchecked."""
    url, hub = _addresses(name, tags)
    target = _release_file(url, cache_dir)
    if target and target.is_file():
        return target
    return _cached_in_hub(hub, HUB_FILES, cache_root(cache_dir)) if hub else None


def sha256_of(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read ({exc.strerror})") from exc


def read_config(folder: Path) -> dict[str, Any]:
    """open_clip_config.json of a folder.

    Raises:
        CheckpointError: it is missing, not JSON, or has no model_cfg.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{folder}: expected an open_clip model folder, {CONFIG_FILE} is missing") from exc
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path}: not a readable JSON file ({exc})") from exc
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise CheckpointError(f"{path}: expected an object with 'model_cfg'")
    return config


def own_settings(checkpoint: Checkpoint) -> dict[str, str]:
    """What a model folder's "anovl_cfg" says of the model: the recipe it is used with, a note for its users.

    Raises:
        CheckpointError: it says something else, or names no recipe of this version.
    """
    own = checkpoint.config.get("anovl_cfg") or {}
    if not isinstance(own, dict) or not own.keys() <= {"recipe", "note"} or not all(isinstance(v, str) for v in own.values()):
        raise CheckpointError(f"{checkpoint.folder}: anovl_cfg in {CONFIG_FILE}: expected texts 'recipe' and 'note', got {own!r}")
    if own.get("recipe", DEFAULT_RECIPE) not in RECIPES:
        raise CheckpointError(f"{checkpoint.folder}: " + suggest("recipe", own["recipe"], RECIPES))
    return own


def _in_folder(folder: Path, expected: str | None = None) -> Checkpoint:
    if not folder.is_dir():
        raise UnavailableError(f"local-dir: no such folder: {folder}")
    read_config(folder)
    for file in WEIGHT_FILES:
        if (folder / file).is_file():
            return Checkpoint(folder / file, _checked(folder / file, expected).sha256, folder)
    raise UnavailableError(f"{folder}: no weights; expected one of {', '.join(WEIGHT_FILES)}")


def _checked(path: Path, expected: str | None, tags: Mapping[str, Any] | None = None) -> Checkpoint:
    """Verify existence, format and the beginning of the sha256; `tags` tells whose weights they are instead."""
    if not path.is_file():
        raise UnavailableError(f"model: no such file: {path}")
    digest = sha256_of(path)
    if expected and not digest.startswith(expected):
        prefixes = {tag: _url_hash(entry.get("url", "")) for tag, entry in (tags or {}).items()}
        other = next((tag for tag, prefix in prefixes.items() if prefix and digest.startswith(prefix)), None)
        found = f"these are the weights of tag {other!r}" if other else "a damaged download or another model"
        raise CheckpointError(
            f"{path}: sha256 begins with {digest[: len(expected)][:16]}, expected {expected[:16]}: {found}; "
            "move the file away and fetch it again"
        )
    if path.suffix != ".safetensors" and _is_torchscript(path):
        raise CheckpointError(
            f"{path}: a TorchScript archive runs code when it is loaded and is refused; "
            "use the safetensors of the same model, such as ViT-B-16:openai or hf-hub:timm/vit_base_patch16_clip_224.openai"
        )
    return Checkpoint(path, digest)


def _is_torchscript(path: Path) -> bool:
    if not is_zipfile(path):
        return False
    try:
        with ZipFile(path) as archive:
            return any(entry.endswith("constants.pkl") for entry in archive.namelist())
    except BadZipFile as exc:
        raise CheckpointError(f"{path}: damaged archive ({exc}); fetch it again") from exc


def _addresses(name: ModelName, tags: Mapping[str, Any]) -> tuple[str, str]:
    """(release file's URL, hub repository) of a tag, either may be empty."""
    config = tags[name.target]
    url, hub = config.get("url", ""), config.get("hf_hub", "").rstrip("/")
    if hub and _belongs_to_other_tag(hub, name.target, tags):
        log.info("%s: the hub entry %s holds other weights; only the release file will do", name.text, hub)
        hub = ""
    if hub and "openaipublic" in url:  # a TorchScript archive, which is never loaded
        url = ""
    return url, hub


def _release_file(url: str, cache_dir: Path | None) -> Path | None:
    """Where open_clip keeps a release file, or None for a tag without one."""
    folder = cache_root(cache_dir) or Path.home() / ".cache" / "clip"
    return folder / url.rsplit("/", 1)[-1] if url else None


def _of_tag(name: ModelName, tags: Mapping[str, Any], cache_dir: Path | None, *, local_files_only: bool) -> Checkpoint:
    url, hub = _addresses(name, tags)
    target = _release_file(url, cache_dir)
    if target and target.is_file():
        return _checked(target, _url_hash(url), tags)
    if hub:
        return _in_hub(hub, cache_dir, name.text, local_files_only=local_files_only, config=False)
    if target is None:
        raise UnavailableError(f"{name.text}: open_clip names no address for these weights")
    if local_files_only:
        raise UnavailableError(_absent(name.text, target.name, url, str(target.parent)))
    _download(url, target, _url_hash(url), name.text)
    return _checked(target, _url_hash(url))


def _belongs_to_other_tag(hub: str, tag: str, tags: Mapping[str, Any]) -> bool:
    """True for the trap in open_clip's table: a hub repository named after another tag of the architecture.

    ViT-B-16-plus-240:laion400m_e32 points to "timm/vit_base_patch16_plus_clip_240.laion400m_e31".
    """
    named = hub.rpartition(".")[2]
    return named != tag and named in tags


def _url_hash(url: str) -> str | None:
    """sha256 (or its beginning) that an address of open_clip or OpenAI spells."""
    if "openaipublic" in url:
        return url.split("/")[-2]
    match = _HASH_IN_NAME.search(url)
    return match.group(1) if match else None


def _in_hub(repository: str, cache_dir: Path | None, name: str, *, local_files_only: bool, config: bool) -> Checkpoint:
    """A hub repository's weights, from the cache or the network; `config` asks for open_clip_config.json too."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    owner, _, rest = repository.partition("/")
    repo, _, file = rest.partition("/")
    if not owner or not repo:
        raise UsageError(f"{name}: expected hf-hub:ORG/NAME")
    repo_id = f"{owner}/{repo}"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as exc:
        raise UsageError(f"{name}: expected hf-hub:ORG/NAME ({exc})") from exc
    root = cache_root(cache_dir)
    choices: list[tuple[str, ...]] = [(CONFIG_FILE,)] if config else []
    choices.append((file,) if file else HUB_FILES)

    paths = []
    for names in choices:
        path = _cached_in_hub(repo_id, names, root)
        if path is None:
            where = f"{root or constants.HF_HUB_CACHE} (`hf download {repo_id}` puts it there)"
            message = _absent(name, names[0], f"the hub repository {repo_id}", where)
            if local_files_only or constants.HF_HUB_OFFLINE:
                raise UnavailableError(message)
            try:
                path = _from_hub(repo_id, names, root)
            except Exception as exc:  # the hub client raises errors of several libraries
                reason = " ".join(str(exc).split())[:200]
                raise UnavailableError(f"{message} (the download failed: {type(exc).__name__}: {reason})") from exc
        paths.append(path)
    checked = _checked(paths[-1], None)
    return Checkpoint(checked.weights, checked.sha256, paths[0].parent if config else None)


def _cached_in_hub(repo_id: str, names: tuple[str, ...], root: Path | None) -> Path | None:
    """The first of the files that the hub cache has."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repo_id, name, cache_dir=root) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _from_hub(repo_id: str, names: tuple[str, ...], root: Path | None) -> Path:
    """Download the first of the files that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            return Path(hf_hub_download(repo_id, name, cache_dir=root))
        except LocalEntryNotFoundError:  # no network, not "no such file"
            raise
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{repo_id} has none of {', '.join(names)}")


def _download(url: str, target: Path, expected: str | None, name: str) -> None:
    """Fetch a release file under a temporary name, verify its checksum, move it into place."""
    from torch.hub import download_url_to_file

    log.info("%s: downloading %s", name, url)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{target.parent}: the cache folder cannot be made ({exc.strerror}); --cache-dir moves it") from exc
    try:
        download_url_to_file(url, str(target), hash_prefix=expected)
    except RuntimeError as exc:
        raise CheckpointError(f"{url}: the download has the wrong checksum ({exc})") from exc
    except (OSError, HTTPException) as exc:
        message = _absent(name, target.name, url, str(target.parent))
        raise UnavailableError(f"{message} (the download failed: {exc})") from exc


def _absent(name: str, file: str, origin: str, place: str) -> str:
    """The one text for a model that is not here: which file, from where, where to put it, what needs none."""
    return (
        f"model {name!r} is not on this machine: {file} is missing. Fetch it from {origin} and put it into {place}; "
        "--cache-dir or ANOVL_CACHE name another folder. `--model mini`, the embedded model trained on drawn pictures, "
        "needs no file"
    )
