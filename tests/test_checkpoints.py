"""Names and files: every form of a name, the release file against the hub, checksums, downloads that fail."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from anovl.backbones import open_clip_tags
from anovl.checkpoints import (
    CONFIG_FILE,
    EMBEDDED,
    HUB_FILES,
    WEIGHT_FILES,
    Checkpoint,
    cache_root,
    find_local,
    locate,
    own_settings,
    parse_model_name,
    read_config,
    sha256_of,
)
from anovl.errors import CheckpointError, OutputError, UnavailableError, UsageError

DEFAULT = "ViT-B-16-plus-240:laion400m_e32"
GOOD, OTHER = b"the weights asked for", b"the weights of the epoch before"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def online(monkeypatch):
    """As on a machine with a network; what the test does not replace must not be called."""

    def never(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", never)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", never)


@pytest.fixture
def tags():
    """A table as open_clip's, the hashes those of GOOD and OTHER."""
    base = "https://example.invalid/v0.2-weights"
    return {
        "first": {"url": f"{base}/net-first-{digest(OTHER)[:8]}.pt"},
        "second": {"url": f"{base}/net-second-{digest(GOOD)[:8]}.pt"},
    }


def hub_cache(root: Path, repo: str, files: dict[str, bytes]) -> Path:
    """The layout huggingface_hub keeps: blobs, and links to them in the snapshot that refs/main names."""
    folder = root / f"models--{repo.replace('/', '--')}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = folder / "snapshots" / revision
    for path in (folder / "refs", folder / "blobs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    for name, data in files.items():
        blob = folder / "blobs" / digest(data)
        blob.write_bytes(data)
        (snapshot / name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


# --- names


@pytest.mark.parametrize(
    ("name", "arch", "kind", "target", "parsed_arch"),
    [
        ("mini", None, "embedded", "mini", None),
        (DEFAULT, None, "tag", "laion400m_e32", "ViT-B-16-plus-240"),
        ("ViT-B/32:LAION2B-s34b-b79k", None, "tag", "laion2b_s34b_b79k", "ViT-B-32"),
        ("hf-hub:timm/vit.x", None, "hub", "timm/vit.x", None),
        ("local-dir:a/b", None, "folder", "a/b", None),
        ("local-dir:a/b.pt", None, "folder", "a/b.pt", None),
        ("a/b.pt", "ViT-B-16", "file", "a/b.pt", "ViT-B-16"),
        ("b.pth", "ViT-B-16", "file", "b.pth", "ViT-B-16"),
        ("b.bin", "ViT-B-16", "file", "b.bin", "ViT-B-16"),
        ("b.safetensors", "ViT-B-16", "file", "b.safetensors", "ViT-B-16"),
        ("C:\\models\\b.safetensors", "ViT-B-16", "file", "C:\\models\\b.safetensors", "ViT-B-16"),
    ],
)
def test_every_form_of_a_name(name, arch, kind, target, parsed_arch):
    parsed = parse_model_name(name, arch)
    assert (parsed.text, parsed.kind, parsed.target, parsed.arch) == (name, kind, target, parsed_arch)


@pytest.mark.parametrize("name", ["", "ViT-B-32", "ViT-B-32:", ":openai", ":", "local-dir:", "hf-hub:", "MINI", "x" * 300])
def test_malformed_name_lists_the_forms(name):
    with pytest.raises(UsageError) as error:
        parse_model_name(name)
    for form in ("mini", "ARCH:TAG", "hf-hub:ORG/NAME", "local-dir:FOLDER", ".safetensors", repr(name)):
        assert form in str(error.value)
    assert "for that folder" not in str(error.value)


def test_bare_folder_suggests_local_dir(tmp_path):
    with pytest.raises(UsageError, match="local-dir:") as error:
        parse_model_name(str(tmp_path))
    assert f"'local-dir:{tmp_path}'" in str(error.value)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors", "w.bin"])
def test_weight_file_needs_an_architecture(name):
    with pytest.raises(UsageError, match="--arch"):
        parse_model_name(name)


def test_exported_model_is_refused():
    with pytest.raises(UsageError, match=r"model\.onnx"):
        parse_model_name("model.onnx")


# --- places


def test_cache_root_prefers_the_argument(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOVL_CACHE", str(tmp_path / "env"))
    assert cache_root(tmp_path / "argument") == tmp_path / "argument"
    assert cache_root(None) == tmp_path / "env"


@pytest.mark.parametrize("value", [None, ""])
def test_cache_root_without_anything_is_open_clips(monkeypatch, tags, value):
    monkeypatch.delenv("ANOVL_CACHE")
    if value is not None:
        monkeypatch.setenv("ANOVL_CACHE", value)
    assert cache_root(None) is None
    with pytest.raises(UnavailableError) as error:
        locate(parse_model_name("Net:second"), tags, cache_dir=None, local_files_only=True)
    assert str(Path.home() / ".cache" / "clip") in str(error.value)


def test_find_local_release_file_then_hub(tmp_path, tags):
    tags["second"]["hf_hub"] = "org/net.second/"
    name = parse_model_name("Net:second")
    assert find_local(name, tags, tmp_path) is None
    snapshot = hub_cache(tmp_path, "org/net.second", {HUB_FILES[1]: GOOD})
    assert find_local(name, tags, tmp_path) == snapshot / HUB_FILES[1]
    release = tmp_path / tags["second"]["url"].rpartition("/")[2]
    release.write_bytes(b"unchecked here")
    assert find_local(name, tags, tmp_path) == release


def test_find_local_obeys_the_environment(tmp_path, tags, monkeypatch):
    monkeypatch.setenv("ANOVL_CACHE", str(tmp_path))
    release = tmp_path / tags["first"]["url"].rpartition("/")[2]
    release.write_bytes(OTHER)
    assert find_local(parse_model_name("Net:first"), tags, None) == release


# --- the trap: the hub has e31 under the name of e32


def test_default_model_never_takes_the_hub_entry(tmp_path, online):
    name, table = parse_model_name(DEFAULT), open_clip_tags("ViT-B-16-plus-240")
    repo = table["laion400m_e32"]["hf_hub"].rstrip("/")
    hub_cache(tmp_path, repo, {HUB_FILES[0]: b"e31"})
    assert find_local(name, table, tmp_path) is None
    with pytest.raises(UnavailableError, match="vit_b_16_plus_240-laion400m_e32-699c4b84") as error:
        locate(name, table, cache_dir=tmp_path, local_files_only=True)
    assert repo not in str(error.value)


def test_default_model_is_downloaded_as_the_release_file(tmp_path, online, monkeypatch):
    asked = []

    def fetch(url, dst, hash_prefix=None, **kwargs):
        asked.append((url, hash_prefix))
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    table = open_clip_tags("ViT-B-16-plus-240")
    with pytest.raises(UnavailableError):
        locate(parse_model_name(DEFAULT), table, cache_dir=tmp_path, local_files_only=False)
    assert asked == [(table["laion400m_e32"]["url"], "699c4b84")]


def test_e31_keeps_its_own_hub_entry(tmp_path, online):
    table = open_clip_tags("ViT-B-16-plus-240")
    snapshot = hub_cache(tmp_path, table["laion400m_e31"]["hf_hub"].rstrip("/"), {HUB_FILES[0]: b"e31"})
    found = locate(parse_model_name("ViT-B-16-plus-240:laion400m_e31"), table, cache_dir=tmp_path, local_files_only=True)
    assert found.weights == snapshot / HUB_FILES[0]
    assert found.sha256 == digest(b"e31")


def test_release_file_with_the_right_hash(tmp_path, tags, online):
    release = tmp_path / tags["second"]["url"].rpartition("/")[2]
    release.write_bytes(GOOD)
    found = locate(parse_model_name("Net:second"), tags, cache_dir=tmp_path, local_files_only=False)
    assert (found.weights, found.sha256, found.folder) == (release, digest(GOOD), None)


@pytest.mark.parametrize("local_files_only", [True, False])
def test_release_file_of_another_tag_is_named(tmp_path, tags, online, local_files_only):
    (tmp_path / tags["second"]["url"].rpartition("/")[2]).write_bytes(OTHER)
    with pytest.raises(CheckpointError, match="weights of tag 'first'") as error:
        locate(parse_model_name("Net:second"), tags, cache_dir=tmp_path, local_files_only=local_files_only)
    assert digest(OTHER)[:8] in str(error.value)
    assert digest(GOOD)[:8] in str(error.value)


def test_damaged_release_file(tmp_path, tags):
    (tmp_path / tags["second"]["url"].rpartition("/")[2]).write_bytes(b"neither of them")
    with pytest.raises(CheckpointError, match="damaged") as error:
        locate(parse_model_name("Net:second"), tags, cache_dir=tmp_path, local_files_only=True)
    assert "weights of tag" not in str(error.value)


def test_hash_of_openai_is_the_folder_of_the_url(tmp_path):
    table = {"openai": {"url": f"https://openaipublic.example.invalid/clip/models/{digest(GOOD)}/RN50.pt"}}
    name = parse_model_name("RN50:openai")
    (tmp_path / "RN50.pt").write_bytes(GOOD)
    assert locate(name, table, cache_dir=tmp_path, local_files_only=True).sha256 == digest(GOOD)
    (tmp_path / "RN50.pt").write_bytes(OTHER)
    with pytest.raises(CheckpointError, match=digest(GOOD)[:16]):
        locate(name, table, cache_dir=tmp_path, local_files_only=True)


def test_tag_without_any_address(tmp_path):
    with pytest.raises(UnavailableError, match="no address"):
        locate(parse_model_name("Net:bare"), {"bare": {}}, cache_dir=tmp_path, local_files_only=False)


# --- files and folders


def file_name(path: Path):
    return parse_model_name(str(path), "ViT-B-16")


def test_file_named_like_a_release_must_be_it(tmp_path):
    own, release = tmp_path / "finetune-20240115.pt", tmp_path / "net-e32-01234567.pt"
    own.write_bytes(GOOD)
    release.write_bytes(GOOD)
    tags = {"e31": {"url": f"https://x/net-e31-{digest(GOOD)[:8]}.pt"}, "e32": {"url": f"https://x/{release.name}"}}
    assert locate(file_name(own), tags, cache_dir=None, local_files_only=True).sha256 == digest(GOOD)
    with pytest.raises(CheckpointError, match="expected 01234567: these are the weights of tag 'e31'"):
        locate(file_name(release), tags, cache_dir=None, local_files_only=True)


def test_words_in_a_file_name_are_no_hash(tmp_path):
    path = tmp_path / "net-deadline.pt"
    path.write_bytes(GOOD)
    assert locate(file_name(path), {}, cache_dir=None, local_files_only=True).weights == path


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(UnavailableError, match=r"absent\.pt"):
        locate(file_name(tmp_path / "absent.pt"), {}, cache_dir=None, local_files_only=True)


@pytest.mark.parametrize("suffix", [".pt", ".bin"])
def test_torchscript_archive_is_refused(tmp_path, suffix):
    path = tmp_path / f"net{suffix}"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"")
        archive.writestr("net/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        locate(file_name(path), {}, cache_dir=None, local_files_only=True)


def test_damaged_zip_archive_is_a_checkpoint_error(tmp_path):
    path = tmp_path / "net.pt"
    torch.save({"a": torch.zeros(100)}, path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\x01\x02", b"\0\0\0\0"))
    with pytest.raises(CheckpointError, match=r"net\.pt"):
        locate(file_name(path), {}, cache_dir=None, local_files_only=True)


def test_sha256_of_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        sha256_of(tmp_path)


def model_folder(folder: Path, *weights: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": {"embed_dim": 8}}))
    for name in weights:
        (folder / name).write_bytes(name.encode())
    return folder


def test_folder_weights_in_order_of_preference(tmp_path):
    folder = model_folder(tmp_path / "m", *WEIGHT_FILES)
    for expected in WEIGHT_FILES:
        found = locate(parse_model_name(f"local-dir:{folder}"), {}, cache_dir=None, local_files_only=True)
        assert (found.weights, found.folder, found.sha256) == (folder / expected, folder, digest(expected.encode()))
        (folder / expected).unlink()


@pytest.mark.parametrize(
    ("config", "error", "text"),
    [
        (None, CheckpointError, f"{CONFIG_FILE} is missing"),
        ("{broken", CheckpointError, "not a readable JSON"),
        (b"\xff\xfe\x00", CheckpointError, "not a readable JSON"),
        ("[1]", CheckpointError, "model_cfg"),
        ("{}", CheckpointError, "model_cfg"),
        ('{"model_cfg": null}', CheckpointError, "model_cfg"),
        ('{"model_cfg": {}}', UnavailableError, "no weights"),
    ],
)
def test_incomplete_folder(tmp_path, config, error, text):
    if config is not None:
        (tmp_path / CONFIG_FILE).write_bytes(config if isinstance(config, bytes) else config.encode())
    with pytest.raises(error, match=text) as caught:
        locate(parse_model_name(f"local-dir:{tmp_path}"), {}, cache_dir=None, local_files_only=True)
    assert str(tmp_path) in str(caught.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(UnavailableError, match="no such folder"):
        locate(parse_model_name(f"local-dir:{tmp_path / 'absent'}"), {}, cache_dir=None, local_files_only=True)


def test_read_config_gives_all_of_it(tmp_path):
    assert read_config(model_folder(tmp_path)) == {"model_cfg": {"embed_dim": 8}}


def test_embedded_model_is_a_folder_of_the_package_or_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr("anovl.checkpoints.files", lambda package: tmp_path)
    with pytest.raises(UnavailableError, match="not part of this build"):
        locate(parse_model_name("mini"), {}, cache_dir=None, local_files_only=True)
    (tmp_path / "assets").mkdir()
    folder = model_folder(tmp_path / "assets" / "mini", HUB_FILES[0])
    with pytest.raises(CheckpointError, match="damaged download"):
        locate(parse_model_name("mini"), {}, cache_dir=None, local_files_only=True)
    monkeypatch.setitem(EMBEDDED, "mini", sha256_of(folder / HUB_FILES[0]))
    assert locate(parse_model_name("mini"), {}, cache_dir=None, local_files_only=True).folder == folder


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_are_in_the_package_and_are_the_ones_we_trained(name):
    checkpoint = locate(parse_model_name(name), {}, cache_dir=None, local_files_only=True)
    assert checkpoint.sha256 == EMBEDDED[name]
    assert checkpoint.weights.stat().st_size < 16 * 2**20
    assert own_settings(checkpoint)["recipe"] == "mini"
    assert "drawn" in own_settings(checkpoint)["note"]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ('{"recipe": "papper"}', "did you mean 'paper'"),
        ('{"recipe": 3}', "expected texts"),
        ('{"colour": "red"}', "expected texts"),
        ('["mini"]', "expected texts"),
    ],
)
def test_wrong_settings_of_a_model_folder(tmp_path, own, message):
    folder = model_folder(tmp_path)
    (folder / "open_clip_config.json").write_text('{"model_cfg": {}, "anovl_cfg": ' + own + "}")
    with pytest.raises(CheckpointError, match=message):
        own_settings(Checkpoint(folder / HUB_FILES[0], "", folder))


def test_settings_of_a_model_folder(tmp_path):
    folder = model_folder(tmp_path)
    assert own_settings(Checkpoint(folder / HUB_FILES[0], "", folder)) == {}
    assert own_settings(Checkpoint(folder / HUB_FILES[0], "")) == {}
    (folder / "open_clip_config.json").write_text('{"model_cfg": {}, "anovl_cfg": {"recipe": "paper", "note": "x"}}')
    assert own_settings(Checkpoint(folder / HUB_FILES[0], "", folder)) == {"recipe": "paper", "note": "x"}


# --- the hub


HUB = "hf-hub:org/some.net"


@pytest.mark.parametrize("file", HUB_FILES)
@pytest.mark.parametrize("local_files_only", [True, False])
def test_hub_name_from_the_cache(tmp_path, online, file, local_files_only):
    snapshot = hub_cache(tmp_path, "org/some.net", {CONFIG_FILE: b"{}", file: GOOD})
    found = locate(parse_model_name(HUB), {}, cache_dir=tmp_path, local_files_only=local_files_only)
    assert (found.weights, found.sha256, found.folder) == (snapshot / file, digest(GOOD), snapshot)


def test_hub_file_of_a_tag_from_the_cache(tmp_path, online):
    table = {"third": {"hf_hub": "org/some.net/own_name.bin"}}
    snapshot = hub_cache(tmp_path, "org/some.net", {"own_name.bin": GOOD, HUB_FILES[0]: OTHER})
    found = locate(parse_model_name("Net:third"), table, cache_dir=tmp_path, local_files_only=True)
    assert (found.weights, found.folder) == (snapshot / "own_name.bin", None)


@pytest.mark.parametrize(("here", "missing"), [({}, CONFIG_FILE), ({CONFIG_FILE: b"{}"}, HUB_FILES[0])])
@pytest.mark.parametrize("how", ["argument", "HF_HUB_OFFLINE"])
def test_hub_name_that_is_not_here(tmp_path, online, monkeypatch, here, missing, how):
    if here:
        hub_cache(tmp_path, "org/some.net", here)
    if how == "HF_HUB_OFFLINE":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnavailableError) as error:
        locate(parse_model_name(HUB), {}, cache_dir=tmp_path, local_files_only=how == "argument")
    assert error.value.exit_code == 5
    for text in (HUB, missing, "hub repository org/some.net", str(tmp_path), "--cache-dir", "ANOVL_CACHE", "`--model mini`"):
        assert text in str(error.value)


def test_release_file_that_is_not_here(tmp_path, tags, online):
    with pytest.raises(UnavailableError) as error:
        locate(parse_model_name("Net:second"), tags, cache_dir=tmp_path, local_files_only=True)
    assert error.value.exit_code == 5
    url = tags["second"]["url"]
    for text in ("Net:second", url.rpartition("/")[2], url, str(tmp_path), "--cache-dir", "ANOVL_CACHE", "`--model mini`"):
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["hf-hub:alone", "hf-hub:/net", "hf-hub:org/", "hf-hub:org/a b", "hf-hub:org/net@main"])
def test_hub_name_that_is_none(tmp_path, online, name):
    with pytest.raises(UsageError, match="hf-hub:"):
        locate(parse_model_name(name), {}, cache_dir=tmp_path, local_files_only=True)


# --- downloads


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError("disk full"), UnavailableError),
        (ConnectionError("refused"), UnavailableError),
        (TimeoutError("timed out"), UnavailableError),
        (RuntimeError("invalid hash value (expected 'a', got 'b')"), CheckpointError),
    ],
)
def test_failed_download_of_a_release_file(tmp_path, tags, online, monkeypatch, raised, expected):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(expected) as error:
        locate(parse_model_name("Net:second"), tags, cache_dir=tmp_path / "new", local_files_only=False)
    assert str(raised) in str(error.value)
    assert tags["second"]["url"] in str(error.value)
    assert error.value.__cause__ is raised


@pytest.mark.parametrize("raised", [OSError("disk full"), ConnectionError("refused"), RuntimeError("odd"), ValueError("odd")])
def test_failed_download_from_the_hub(tmp_path, online, monkeypatch, raised):
    def fail(*args, **kwargs):
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UnavailableError, match=r"org/some\.net") as error:
        locate(parse_model_name(HUB), {}, cache_dir=tmp_path, local_files_only=False)
    assert f"{type(raised).__name__}: {raised}" in str(error.value)
    assert CONFIG_FILE in str(error.value)


def test_hub_repository_with_the_older_file_only(tmp_path, online, monkeypatch):
    asked = []

    def fetch(repo_id, filename, cache_dir=None):
        asked.append((repo_id, filename, cache_dir))
        if filename == HUB_FILES[0]:
            raise huggingface_hub.errors.EntryNotFoundError("404")
        path = tmp_path / filename
        path.write_bytes(GOOD)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    found = locate(parse_model_name(HUB), {}, cache_dir=tmp_path, local_files_only=False)
    assert found.weights == tmp_path / HUB_FILES[1]
    assert asked == [("org/some.net", name, tmp_path) for name in (CONFIG_FILE, *HUB_FILES)]


def test_cache_folder_that_cannot_be_made(tmp_path, tags, online):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="--cache-dir"):
        locate(parse_model_name("Net:second"), tags, cache_dir=tmp_path / "file" / "cache", local_files_only=False)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves GOOD under every name but those that say otherwise."""

    def do_GET(self):
        if "absent" in self.path:
            self.send_error(404)
            return
        if "garbage" in self.path:
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(GOOD)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(GOOD[:5] if "short" in self.path else GOOD)

    def log_message(self, *args):
        """Keep the output of the tests clean."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def test_download_with_the_right_hash(tmp_path, server):
    table = {"t": {"url": f"{server}/net-{digest(GOOD)[:8]}.pt"}}
    cache = tmp_path / "new" / "cache"
    found = locate(parse_model_name("Net:t"), table, cache_dir=cache, local_files_only=False)
    assert found.sha256 == digest(GOOD)
    assert [(path.name, path.read_bytes()) for path in cache.iterdir()] == [(f"net-{digest(GOOD)[:8]}.pt", GOOD)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wrong-01234567.pt", CheckpointError),
        (f"short-{digest(GOOD)[:8]}.pt", CheckpointError),
        (f"absent-{digest(GOOD)[:8]}.pt", UnavailableError),
        (f"garbage-{digest(GOOD)[:8]}.pt", UnavailableError),
    ],
)
def test_download_that_goes_wrong_leaves_nothing(tmp_path, server, name, expected):
    table = {"t": {"url": f"{server}/{name}"}}
    with pytest.raises(expected, match=name):
        locate(parse_model_name("Net:t"), table, cache_dir=tmp_path, local_files_only=False)
    assert list(tmp_path.iterdir()) == []


def test_server_that_is_down(tmp_path, server):  # `server` for the proxy settings
    closed = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    table = {"t": {"url": f"http://127.0.0.1:{closed.server_port}/net-01234567.pt"}}
    closed.server_close()
    with pytest.raises(UnavailableError, match="the download failed"):
        locate(parse_model_name("Net:t"), table, cache_dir=tmp_path, local_files_only=False)
    assert list(tmp_path.iterdir()) == []
