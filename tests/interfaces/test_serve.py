"""anovl serve as a process, with real models, called through anovl.Client."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

import anovl
from anovl.cli import app

COMMAND = [sys.executable, "-m", "anovl", "serve", "--port", "0"]


@contextlib.contextmanager
def service(*arguments, command=COMMAND, **options):
    """A running `anovl serve`: .process, .client, .url, .log (its lines so far)."""
    process = subprocess.Popen(
        [*command, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    log = []
    reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
    try:
        for line in process.stderr:
            log.append(line)
            if line.startswith("{") and json.loads(line)["message"] == "listening":
                break
        else:
            pytest.fail("".join(log))
        reader.start()
        url = json.loads(line)["url"]
        yield SimpleNamespace(process=process, url=url, client=anovl.Client(url), log=log, reader=reader)
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            process.kill()
        reader.join(5)


def stop(running, sig=signal.SIGTERM):
    """Seconds to its end, and the exit code."""
    began = time.monotonic()
    running.process.send_signal(sig)
    code = running.process.wait(20)
    running.reader.join(5)
    return time.monotonic() - began, code


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """24 pictures of different content and size, as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    paths = []
    for index in range(24):
        small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        paths.append(folder / f"{index}.png")
        Image.fromarray(small).resize((40 + 4 * index, 60), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


@pytest.fixture(scope="module")
def golden(golden_name, tmp_path_factory):
    """The golden model, served from an empty folder that is its temporary one as well."""
    here, cache = tmp_path_factory.mktemp("serving"), tmp_path_factory.mktemp("cache")
    with service(
        "--model",
        f"golden={golden_name}",
        "--class-name",
        "nut",
        cwd=here,
        env=os.environ | {"TMPDIR": str(here), "ANOVL_CACHE": str(cache)},
    ) as one:
        one.folder, one.cache = here, cache
        yield one


def test_answers_equal_the_offline_ones(golden, images, detector):
    names = ("nut", "leather", "cable")
    expected = {(path, name): detector.predict(path, name) for path in images for name in names}

    def ask(index):
        path, name = images[index % len(images)], names[index % 3]
        (got,) = golden.client.predict(path, name, returns=("score", "regions", "map"))
        own = expected[path, name]
        assert (got.filename, got.class_name, got.image_size) == (path.name, name, own.image_size)
        assert got.pred_score == pytest.approx(own.pred_score, abs=1e-5)
        assert np.abs(got.anomaly_map - own.anomaly_map).max() < 1e-5
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(96))) == 96
    (default,) = golden.client.predict(images[0])
    assert default.class_name == "nut"
    assert list(golden.folder.iterdir()) == []
    assert len(list(golden.cache.rglob("*.safetensors"))) == 1  # the class named at the start alone


def test_adaptation_and_words(golden, images, detector):
    settings = {"domain": "texture", "defects": ["scratch"], "adapt": True, "seed": 3}
    batch = golden.client.predict(images[:5], "nut", returns=("score", "map"), **settings)
    for path, got in zip(images, batch, strict=False):
        own = detector.predict(path, "nut", **settings)
        assert got.pred_score == pytest.approx(own.pred_score, abs=1e-5)
        assert np.abs(got.anomaly_map - own.anomaly_map).max() < 1e-5
    with pytest.raises(anovl.ServiceError, match="422: seed: needs adapt"):
        golden.client.predict(images[0], seed=3)
    with pytest.raises(anovl.ServiceError, match="422: class name: expected"):
        golden.client.predict(images[0], "a\nb")


def test_what_it_says_of_itself(golden, golden_backbone):
    info = golden.client.info()
    assert info["models"]["golden"]["weights_sha256"] == golden_backbone.weights_id
    assert info["versions"]["anovl"] == anovl.__version__
    assert golden.client.ready()


def test_mini_by_default_with_the_options_of_predict(images, tmp_path):
    offline = anovl.AnoVL.from_pretrained("mini", recipe="paper", method="maskclip")
    arguments = ("--recipe", "paper", "--method", "maskclip", "--cache-dir", tmp_path / "cache", "--class-name", "nut")
    with service(*arguments) as one:
        (got,) = one.client.predict(images[0], returns=("score", "map"))
        own = offline.predict(images[0], "nut")
        assert got.pred_score == pytest.approx(own.pred_score, abs=1e-5)
        assert np.abs(got.anomaly_map - own.anomaly_map).max() < 1e-5
        told = one.client.info()["models"]["mini"]
        assert (told["recipe"], told["method"]) == ("paper", "maskclip")
        assert "trying things out" in json.loads(one.log[0])["message"]
    assert list((tmp_path / "cache").rglob("*.safetensors"))  # the class named at the start


def test_the_log_is_json_lines(golden, images):
    golden.client.predict(images[0])
    until = time.monotonic() + 5
    while not any('"images": 1' in line for line in golden.log) and time.monotonic() < until:
        time.sleep(0.01)
    lines = [json.loads(line) for line in golden.log]
    request = next(line for line in lines if line.get("images") == 1)
    assert request.keys() == {"time", "level", "message", "id", "method", "path", "status", "ms", "images"}
    assert (request["path"], request["status"]) == ("/v1/predict", 200)


@pytest.mark.parametrize("sig", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stop_under_load_answers_what_was_accepted(golden_name, images, sig):
    answered, refused, unreached = [], [], []

    def call(client):
        try:
            while True:
                answered.append(len(client.predict(images[:6], returns=("score", "overlay"))))
        except anovl.ServiceError as exc:
            refused.append(exc.status)
        except anovl.AnovlError:
            unreached.append(1)

    with service("--model", golden_name, "--class-name", "nut") as one:
        callers = [threading.Thread(target=call, args=(one.client,)) for _ in range(8)]
        for caller in callers:
            caller.start()
        while len(answered) < 10:
            time.sleep(0.005)
        took, code = stop(one, sig)
        for caller in callers:
            caller.join(10)
    assert code == 0, one.log
    assert took < 10
    assert not psutil.pid_exists(one.process.pid)
    lines = [json.loads(line) for line in one.log]
    statuses = [line["status"] for line in lines if line["message"] == "request"]
    assert statuses.count(200) == len(answered)  # what the service sent has arrived
    assert sorted(refused) == [status for status in statuses if status != 200] == [503] * len(refused)
    assert len(refused) + len(unreached) == 8
    assert next(line["images"] for line in lines if line["message"] == "stopping") > 0
    assert lines[-1]["message"] == "stopped"


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """mini with two classes as an .onnx."""
    path = tmp_path_factory.mktemp("file") / "part.onnx"
    command = [
        sys.executable,
        "-m",
        "anovl",
        "export",
        path,
        "--class-name",
        "metal nut",
        "--class-name",
        "leather",
        "--model",
        "mini",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def test_an_exported_file_serves_without_torch(part, images, tmp_path):
    script = """
import sys
from anovl.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print([m for m in ("torch", "open_clip", "onnx") if m in sys.modules])
"""
    (tmp_path / "token").write_text("s3cret\n")
    command = [
        sys.executable,
        "-c",
        script,
        "serve",
        "--port",
        "0",
        "--token-file",
        str(tmp_path / "token"),
        "--model",
        str(part),
    ]
    offline = anovl.ExportedModel(part)
    with service(command=command) as one:
        assert not one.client.ready()
        client = anovl.Client(one.url, "s3cret")
        assert client.info()["models"]["part"]["classes"] == ["metal nut", "leather"]
        for name in ("leather", "metal nut"):
            for path, got in zip(images[:4], client.predict(images[:4], name, returns=("map", "overlay")), strict=True):
                own = offline.predict(path, name)
                assert got.pred_score == pytest.approx(own.pred_score, abs=1e-5)
                assert np.abs(got.anomaly_map - own.anomaly_map).max() < 1e-5
        for wrong, message in (
            ({"class_name": "cable"}, "unknown class of the exported file 'cable'"),
            ({"class_name": None}, "holds 2 classes, name one"),
            ({"class_name": "leather", "domain": "object", "seed": 2}, "domain, seed: decided"),
            ({"class_name": "leather", "adapt": True}, "exported without the adaptation"),
        ):
            with pytest.raises(anovl.ServiceError, match=f"422: .*{message}"):
                client.predict(images[0], **wrong)
        one.process.terminate()
        assert one.process.stdout.read() == "[]\n"
        assert one.process.wait(10) == 0


def test_profiles(part, images, golden_name, detector, tmp_path):
    profiles = {"leather": anovl.ExportedModel(part).calibrate(images[:9], "leather", fpr=0.1)}
    profiles["nut"] = detector.calibrate(images[:9], "nut", fpr=0.1)
    for name, profile in profiles.items():
        profile.save(tmp_path / f"{name}.json")
    given = ("--profile", tmp_path / "leather.json", "--profile", f"golden={tmp_path / 'nut.json'}")
    with service("--model", part, "--model", f"golden={golden_name}", *given) as one:
        for model, name in (("part", "leather"), ("golden", "nut")):
            (got,) = one.client.predict(images[20], name, model=model)
            expected = profiles[name]
            assert (got.threshold, got.pixel_threshold) == (expected.image_threshold, expected.pixel_threshold)
            assert got.calibrated
            assert got.pred_label == (got.pred_score >= expected.image_threshold)
            assert all(region.peak >= expected.pixel_threshold for region in got.regions)
            (other,) = one.client.predict(images[20], "metal nut", model=model)
            assert not other.calibrated
        with pytest.raises(anovl.ServiceError, match=r"422: profile: made for .*adaptation"):
            one.client.predict(images[0], "nut", model="golden", adapt=True)
        (own,) = one.client.predict(images[0], "nut", model="golden", threshold=0.3)
        assert (own.threshold, own.pixel_threshold, own.calibrated) == (0.3, 0.3, False)
    for wrong, message in (
        ([f"other={tmp_path / 'nut.json'}"], "unknown --profile: model 'other'"),
        ([tmp_path / "none.json"], "the profile cannot be read"),
        ([tmp_path / "leather.json"] * 2, "two for 'leather' of part"),
    ):
        done = anovl_serve("--model", part, "--port", 0, *(text for path in wrong for text in ("--profile", path)))
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr


@pytest.fixture(scope="module")
def bank(golden_backbone, images, tmp_path_factory):
    """A file of golden's bank of six pictures as "nut"."""
    path = tmp_path_factory.mktemp("bank") / "nut.safetensors"
    anovl.AnoVL(golden_backbone).fit(images[:6], "nut").bank.save(path)
    return path


@pytest.mark.slow
def test_a_bank(bank, images, golden_name, detector, tmp_path):
    fitted = detector.with_bank(anovl.Bank.load(bank))
    profile = fitted.calibrate(images[6:15], "nut", fpr=0.1)
    profile.save(tmp_path / "profile.json")
    detector.calibrate(images[6:15], "nut", fpr=0.1).save(tmp_path / "words.json")
    model = ("--model", f"golden={golden_name}", "--bank", bank)
    with service(*model, "--profile", tmp_path / "profile.json") as one:
        for path, got in zip(images[15:], one.client.predict(images[15:], returns=("map",)), strict=True):  # the bank's class
            own = fitted.predict(path, "nut")
            assert got.pred_score == pytest.approx(own.pred_score, abs=1e-6)
            assert np.abs(got.anomaly_map - own.anomaly_map).max() < 1e-4  # of 16 bits
            assert (got.class_name, got.calibrated, got.threshold) == ("nut", True, profile.image_threshold)
        with pytest.raises(anovl.ServiceError, match=r"422: unknown class 'bolt'; valid: nut; .*--bank"):
            one.client.predict(images[0], "bolt")
        told = one.client.info()["models"]["golden"]
        assert (told["classes"], told["banks"]["nut"]["key"]) == (["nut"], fitted.bank.key)
    with service(*model, "--profile", tmp_path / "words.json") as one:
        assert any("method: 'anovl', not 'anovl with bank" in line for line in one.log)
        with pytest.raises(anovl.ServiceError, match=r"422: profile: made for method: 'anovl', not 'anovl with bank"):
            one.client.predict(images[0])


@pytest.mark.slow
def test_tiles(images, golden_name, detector, tmp_path):
    tiling = anovl.Tiling(sides=(32, 48), overlap=0.5, crop="foreground")
    profile = detector.calibrate(images[:9], "nut", fpr=0.1, tiles=tiling)
    profile.save(tmp_path / "nut.json")
    options = ("--tile", 32, "--tile", 48, "--tile-overlap", 0.5, "--crop", "foreground", "--profile", tmp_path / "nut.json")
    with service("--model", f"golden={golden_name}", "--class-name", "nut", *options) as one, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(one.client.predict, images[start : start + 2], returns=("map",)) for start in range(0, 12, 2)]
        for path, got in zip(images[:12], [row for answer in asked for row in answer.result()], strict=True):
            own = detector.predict(path, "nut", tiles=tiling)
            assert got.pred_score == pytest.approx(own.pred_score, abs=1e-6)
            assert np.abs(got.anomaly_map - own.anomaly_map).max() < 1e-4
            assert (got.calibrated, got.threshold) == (True, profile.image_threshold)
        told = one.client.info()["models"]["golden"]["tiling"]
        assert told == {"sides": [32, 48], "overlap": 0.5, "crop": "foreground"}
    with service("--model", f"golden={golden_name}", "--tile", 32, "--profile", tmp_path / "nut.json") as one:
        with pytest.raises(anovl.ServiceError, match="422: profile: made for recipe tiling"):
            one.client.predict(images[0], "nut")
        assert not one.client.predict(images[0], "leather")[0].calibrated


def test_what_a_bank_and_tiles_do_not_go_with(bank, part, golden_name, tmp_path):
    model = ("--model", golden_name, "--port", 0)
    for arguments, message in (
        ((*model, "--bank", tmp_path / "none"), "the bank cannot be read"),
        ((*model, "--bank", bank, "--class-name", "bolt"), "unknown class 'bolt'; valid: nut"),
        (("--model", "mini", "--port", 0, "--bank", bank), "bank: made for"),
        ((*model, "--bank", bank, "--tile", 64), "a bank holds tokens of whole pictures"),
        ((*model, "--bank", bank, "--bank", bank), "--bank: two for 'nut'"),
        ((*model, "--bank", bank, "--recipe", "released"), "bank: made for recipe interpolation"),
        ((*model, "--bank", bank, "--method", "transmm"), "'transmm' keeps nothing of good pictures"),
        ((*model, "--tile-overlap", 0.5), "--tile-overlap: needs --tile"),
        ((*model, "--tile", 64, "--tile-overlap", 0.8), "less than or equal to 0.75"),
        (("--model", part, "--port", 0, "--bank", bank), "--bank: needs the model itself, not part.onnx"),
        (("--model", part, "--port", 0, "--crop", "foreground"), "--tile and --crop: needs the model itself, not part.onnx"),
    ):
        for verb in ("serve", "ui"):
            done = CliRunner().invoke(app, [verb, *map(str, arguments)])
            assert done.exit_code == 2, done.output
            assert message in " ".join(done.stderr.replace("│", "").split()), done.stderr


@pytest.mark.slow
def test_two_models_and_a_restart_after_a_kill(part, golden_name, images):
    with service("--model", f"a={part}", "--model", f"b={golden_name}", "--class-name", "leather") as one:
        scores = [one.client.predict(images[0], model=name)[0].pred_score for name in (None, "a", "b")]
        assert scores[0] == scores[1] != scores[2]
        with pytest.raises(anovl.ServiceError, match="422: unknown model 'c'"):
            one.client.predict(images[0], model="c")
        port = one.url.rpartition(":")[2]
        one.process.kill()
        one.process.wait(5)
    began = time.monotonic()
    with service("--model", part, "--port", port, command=COMMAND[:-2]) as one:
        assert one.client.ready()
        assert time.monotonic() - began < 5
        taken = anovl_serve("--model", part, "--port", port)
        assert taken.exit_code == 1
        assert f"--port {port}: cannot be used" in taken.stderr


def anovl_serve(*arguments, env=None):
    return CliRunner().invoke(app, ["serve", *map(str, arguments)], env=env)


def test_usage(tmp_path, part, monkeypatch):
    for arguments, message in (
        (["--model", "mini", "--model", "mini"], "two are called 'mini'"),
        (["--model", part, "--recipe", "paper", "--method", "clip"], "--recipe, --method: decided when part.onnx was exported"),
        (["--recipe", "best", "--port", "0"], "unknown recipe 'best'"),
        (["--method", "magic", "--port", "0"], "unknown method 'magic'"),
        (["--model", "mini", "--queue-size", "2"], "would never fit"),
        (["--model", "mini", "--token-file", tmp_path / "none"], "cannot be read"),
        (["--model", part, "--class-name", "cable", "--port", "0"], "unknown class of the exported file"),
        (["--model", "mini", "--class-name", " ", "--port", "0"], "class name: expected"),
    ):
        done = anovl_serve(*arguments)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
    assert anovl_serve("--model", "mini", env={"ANOVL_SERVE_TOKEN": ""}).exit_code == 2
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = anovl_serve("--model", "mini")
    assert done.exit_code == 5
    assert "anovl[serve]" in done.stderr


@pytest.mark.slow
def test_schemathesis_finds_nothing(golden_name, tmp_path):
    (tmp_path / "schemathesis.toml").write_text(
        "[checks]\n"
        "positive_data_acceptance.enabled = false\n"  # it makes up images that are none
        "negative_data_rejection.expected-statuses = [400, 405, 408, 413, 415, 422]\n"
    )
    with service("--model", golden_name, "--class-name", "nut") as one:
        command = [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{one.url}/openapi.json",
            "--max-examples",
            "100",
            "--seed",
            "1",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
