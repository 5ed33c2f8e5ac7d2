"""anovl serve --engine ray on real clusters, beside a local anovl serve."""

import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

import anovl

pytest.importorskip("ray.serve")
from ray.cluster_utils import Cluster

pytestmark = pytest.mark.slow

TOKEN = "s3cret"  # noqa: S105
MAX_BYTES = 300_000


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Of prompts, for all processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANOVL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ANOVL_SERVE_TOKEN", TOKEN)
        yield


class Served:
    """A process of `anovl serve`."""

    def __init__(self, *more):
        line = [
            "serve",
            "--model",
            "mini",
            "--model",
            "fitted=mini",
            "--class-name",
            "nut",
            "--port",
            "0",
            "--max-bytes",
            str(MAX_BYTES),
            *more,
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anovl", *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self):
        for line in self.process.stderr:
            if not line.startswith("{"):
                raise AssertionError(line)
            if json.loads(line)["message"] == "listening":
                self.url = json.loads(line)["url"]
                break
        self.client = anovl.Client(self.url, TOKEN)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end()

    def end(self):
        """SIGTERM; exit code, log, seconds."""
        began = time.monotonic()
        self.process.terminate()
        out, log = self.process.communicate(timeout=60)
        assert out == ""
        return self.process.returncode, [json.loads(line) for line in log.splitlines()], time.monotonic() - began

    def replicas(self):
        everything = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in everything if "ServeReplica" in " ".join(one.cmdline())]


@pytest.fixture(scope="module")
def bank(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "nut.safetensors"
    detector.fit([picture(seed) for seed in range(30, 34)], "nut").bank.save(path)
    return path


@pytest.fixture(scope="module")
def local(bank):
    with Served("--bank", f"fitted={bank}") as served:
        yield served


@pytest.fixture(scope="module")
def on_ray(local, bank):
    """A cluster of its own; the bank is not where its replicas could read it."""
    with Served("--engine", "ray", "--actors", "2", "--bank", f"fitted={bank}") as served:
        bank.unlink()
        yield served


@pytest.fixture(scope="module")
def detector():
    return anovl.AnoVL.from_pretrained("mini")


def picture(seed):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64 + seed, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def test_the_same_answers(on_ray, local):
    images = [picture(seed) for seed in range(3)]
    ours, theirs = (
        one.client.predict(images, "metal nut", returns=("score", "regions", "map", "overlay")) for one in (on_ray, local)
    )
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.pred_score == pytest.approx(other.pred_score, abs=1e-5)
        assert np.abs(mine.anomaly_map - other.anomaly_map).max() <= 1e-5
        assert [region.area for region in mine.regions] == [region.area for region in other.regions]
        assert mine.row.keys() == other.row.keys()
    assert on_ray.client.info() == local.client.info()


def test_the_same_answers_with_a_bank(on_ray, local):
    images = [picture(seed) for seed in range(3)]
    ours, theirs, words = (
        [row.pred_score for row in one.client.predict(images, model=name)]
        for one, name in ((on_ray, "fitted"), (local, "fitted"), (local, "mini"))
    )
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours != pytest.approx(words, abs=1e-5)
    for one in (on_ray, local):
        with pytest.raises(anovl.ServiceError, match=r"422: unknown class 'bolt'; valid: nut"):
            one.client.predict(images, "bolt", model="fitted")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"files": {"files": ("a.png", picture(0))}}, 200),
        ({"files": {"files": ("a.png", b"no picture")}}, 415),
        ({"files": {"files": ("a.png", picture(0))}, "data": {"class_name": "x" * 300}}, 422),
        ({"files": {"files": ("a.png", picture(0))}, "data": {"model": "other"}}, 422),
        ({"content": bytes(MAX_BYTES + 1), "headers": {"Content-Type": "application/json"}}, 413),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ({"files": {"files": ("a.png", picture(0))}, "headers": {"Authorization": "Bearer other"}}, 401),
    ],
)
def test_the_same_statuses(on_ray, local, body, status):
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "line-7"} | body.get("headers", {})
    ours, theirs = (httpx.post(f"{one.url}/v1/predict", **body | {"headers": headers}, timeout=30) for one in (on_ray, local))
    assert ours.status_code == theirs.status_code == status
    assert ours.headers["Content-Type"] == theirs.headers["Content-Type"]
    assert ours.headers["X-Request-Id"] == ours.json()["request_id"] == "line-7"
    if status != 200:
        assert ours.json() == theirs.json()


def test_the_other_paths(on_ray):
    assert httpx.get(f"{on_ray.url}/healthz").json() == {"status": "alive"}
    assert httpx.get(f"{on_ray.url}/readyz").status_code == 401
    answer = httpx.get(f"{on_ray.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.json() == {"status": "ready"}
    assert answer.headers["X-Request-Id"]


def images_of(served):
    """Images that each replica has answered."""
    text = httpx.get(f"{served.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    rows = [line.split() for line in text.splitlines() if line.startswith("anovl_images_total{")]
    return {name.partition('replica="')[2].partition('"')[0]: float(value) for name, value in rows}


def test_many_callers_two_replicas(on_ray, local):
    images = [picture(seed) for seed in range(20)]
    expected = [one.pred_score for start in (0, 10) for one in local.client.predict(images[start : start + 10])]
    before = images_of(on_ray)
    assert len(before) == 2
    with ThreadPoolExecutor(20) as pool:
        found = [rows[0].pred_score for rows in pool.map(on_ray.client.predict, images)]
    assert found == pytest.approx(expected, abs=1e-5)
    after = images_of(on_ray)
    assert sum(after.values()) - sum(before.values()) == 20
    assert all(after[replica] > count for replica, count in before.items())


def test_a_replica_is_killed(on_ray):
    lost, kept = on_ray.replicas()
    lost.kill()
    for seed in range(20):
        with contextlib.suppress(anovl.ServiceError):  # what was on its way to it
            on_ray.client.predict(picture(seed))
    assert len(on_ray.client.predict([picture(1), picture(2)])) == 2
    until = time.monotonic() + 60
    while len(on_ray.replicas()) < 2:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert kept in on_ray.replicas()
    until = time.monotonic() + 60
    while len(images_of(on_ray)) < 2:  # the new one answers
        assert time.monotonic() < until
        time.sleep(0.2)
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(lambda seed: on_ray.client.predict(picture(seed), model="fitted"), range(16)))) == 16


def test_sigterm(on_ray):
    port = int(on_ray.url.rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(on_ray.client.predict, [picture(seed) for seed in range(16)])
        time.sleep(0.3)
        code, log, seconds = on_ray.end()
        assert len(asked.result()) == 16
    assert code == 0
    assert [line["message"] for line in log] == ["stopping", "stopped"]
    assert seconds < 30
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection("127.0.0.1", port, timeout=5).connect()


def refused(*more):
    """Exit code and last line of a command that does not start."""
    line = [sys.executable, "-m", "anovl", "serve", "--engine", "ray", "--port", "0", *more]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=100)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_cluster_that_is_there(detector):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    on = ("--address", cluster.address)
    try:
        with Served("--engine", "ray", "--actors", "1..2", "--tile", "32", *on) as served:
            images = [picture(seed) for seed in range(3)]
            expected = [detector.predict(one, "nut", tiles=32).anomaly_map for one in images]
            for row, own in zip(served.client.predict(images, returns=("map",), map_format="npy"), expected, strict=True):
                assert np.abs(row.anomaly_map - own).max() <= 1e-5
            code, told = refused(*on)
            assert code == 1
            assert "Ray Serve runs on this cluster already" in told
            served.process.send_signal(signal.SIGINT)
            assert served.process.wait(30) == 0
        code, told = refused(
            "--actors", "1", "--model", "mini", "--device", "cuda", *on
        )  # Ray Serve is gone, the cluster is there
        assert code == 1
        assert "cuda" in told
    finally:
        cluster.shutdown()


def test_what_cannot_start():
    assert refused("--ui") == (
        2,
        "anovl: error: --ui: what visitors do stays in one process, and --engine ray has many; run `anovl ui` beside it",
    )
    code, told = refused("--actors", "1000")
    assert code == 2
    assert "on this machine's cores, got 1000" in told
    code, told = refused("--address", "127.0.0.1:1")
    assert code == 5
    assert "no Ray cluster at 127.0.0.1:1" in told
