"""The service over a real socket, with a model that scores brightness."""

import asyncio
import base64
import io
import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import anovl
from anovl.server.app import create_app
from anovl.server.metrics import merged
from anovl.server.settings import BODIES


@pytest.fixture
def predict(form):
    """predict(server, *parts, headers) -> answer."""

    def call(server, *parts, headers=None):
        body, own = form(*parts)
        return server.ask("POST", "/v1/predict", body, own | (headers or {}))

    return call


def test_rows(serving, predict, png):
    server = serving()
    answer = predict(server, ("files", "a.png", png(51)), ("files", "../b.png", png(204, (20, 10))), ("class_name", "nut"))
    assert answer.status == 200
    assert answer.value["model"] == "grey"
    one, two = answer.value["predictions"]
    assert (one["filename"], two["filename"]) == ("a.png", "../b.png")
    assert (one["pred_score"], two["pred_score"]) == (pytest.approx(0.2), pytest.approx(0.8))
    assert (one["pred_label"], two["pred_label"]) == (False, True)
    assert two["image_size"] == two["map_size"] == [10, 20]
    (region,) = two["regions"]
    assert region == {
        "box": [0, 0, 20, 10],
        "area": 200,
        "peak": pytest.approx(0.8),
        "centroid": [9.5, 4.5],
        "name": None,
        "margin": None,
        "names": [],
    }
    assert two["class_name"] == "nut"
    assert set(two["timings_ms"]) == {"decode", "resize", "score"}
    assert not {"map", "overlay", "image_path"} & two.keys()


def test_images_at_their_full_size_wait_their_turn(serving, predict, png):
    server = serving(in_parts=True, batch_size=8, max_pixels=400)
    server.model.gate.clear()
    parts = [("files", f"{grey}.png", png(grey)) for grey in (51, 204, 102)]
    with ThreadPoolExecutor(7) as pool:
        asked = [pool.submit(predict, server, *parts, ("return", "map")) for _ in range(7)]
        until = time.monotonic() + 5
        while len(server.model.read) < BODIES and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(server.model.read) == BODIES  # of 21 that were sent
        server.model.gate.set()
        for answer in (one.result(20) for one in asked):
            assert answer.status == 200, answer.value
            assert [row["pred_score"] for row in answer.value["predictions"]] == pytest.approx([0.2, 0.8, 0.4])
            assert all(row["map"] for row in answer.value["predictions"])
    assert len(server.model.read) == 21
    broken = predict(server, parts[0], ("files", "b.png", b"no picture"), parts[1])
    assert (broken.status, len(server.model.read)) == (415, 22)  # what comes after it is not looked at
    many = predict(server, *parts, *parts, *parts, ("return", "map"))
    assert (many.status, len(server.model.read)) == (413, 29)  # 7 maps of 64 pixels are too much
    slow = serving(in_parts=True, timeout_s=0.5)
    slow.model.gate.clear()
    with ThreadPoolExecutor(6) as pool:
        given_up = [pool.submit(predict, slow, parts[0]) for _ in range(6)]
        assert [one.result(10).status for one in given_up] == [504] * 6
    slow.model.gate.set()
    assert predict(slow, *parts).status == 200  # no turn is lost


@pytest.mark.parametrize("form_of_map", ["png16", "npy"])
def test_maps_overlays_and_threshold(serving, predict, png, form_of_map):
    server = serving()
    wanted = (("return", "map,overlay"), ("return", "score"), ("map_format", form_of_map), ("threshold", "0.9"))
    (row,) = predict(server, ("files", "a.png", png(204, (20, 10))), *wanted).value["predictions"]
    assert row["threshold"] == 0.9
    assert row["pred_label"] is False
    assert "regions" not in row
    data = io.BytesIO(base64.b64decode(row["map"]))
    found = np.load(data) if form_of_map == "npy" else np.asarray(Image.open(data)) / 65535
    assert found.shape == (10, 20)
    assert np.abs(found - 0.8).max() < 1e-5
    assert Image.open(io.BytesIO(base64.b64decode(row["overlay"]))).format == "PNG"


def test_json(serving, png):
    server = serving(class_name="part")
    images = [base64.b64encode(png(grey)).decode() for grey in (51, 102)]
    body = json.dumps({"images": images, "return": ["score"], "threshold": 0.3})
    answer = server.ask("POST", "/v1/predict", body, {"Content-Type": "application/json; charset=utf-8"})
    assert answer.status == 200, answer.value
    rows = answer.value["predictions"]
    assert [row["filename"] for row in rows] == ["images[0]", "images[1]"]
    assert [row["pred_label"] for row in rows] == [False, True]
    assert rows[0]["class_name"] == "part"


def test_many_callers_get_their_own(serving, predict, png):
    server = serving(queue_size=200, max_wait_ms=20)

    def one(index):
        grey, name = 1 + index % 250, f"class {index % 3}"
        answer = predict(server, ("files", f"{index}.png", png(grey)), ("class_name", name))
        (row,) = answer.value["predictions"]
        return row["filename"] == f"{index}.png" and row["class_name"] == name and abs(row["pred_score"] - grey / 255) < 1e-6

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(one, range(240)))
    assert max(size for _, size in server.model.batches) > 1
    assert all(size <= 8 for _, size in server.model.batches)
    assert server.service.admission.images == server.service.admission.body_bytes == 0


def test_ids(serving, predict, png):
    server = serving()
    answer = predict(server, ("files", "a.png", png()), headers={"X-Request-Id": "line-7.picture_1"})
    assert answer.headers["X-Request-Id"] == answer.value["request_id"] == "line-7.picture_1"
    for strange in ("a b", "x" * 65, "<script>", "é".encode().decode("latin-1")):
        answer = server.ask("GET", "/nowhere", headers={"X-Request-Id": strange})
        assert re.fullmatch(r"[0-9a-f]{16}", answer.value["request_id"])


def test_paths_and_methods(serving):
    server = serving()
    assert server.ask("GET", "/healthz").value == {"status": "alive"}
    assert server.ask("GET", "/readyz").value == {"status": "ready"}
    info = server.ask("GET", "/v1/info").value
    assert (info["default_model"], info["models"]["grey"]["kind"]) == ("grey", "grey")
    assert info["limits"]["max_files"] == 16
    assert (
        server.ask("GET", "/nowhere").status == server.ask("GET", "/v1/info/").status == server.ask("GET", "/docs").status == 404
    )
    wrong = server.ask("GET", "/v1/predict")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    described = server.ask("GET", "/openapi.json").value
    assert set(described["paths"]) == {"/v1/predict", "/v1/info", "/healthz", "/readyz", "/metrics"}
    assert set(described["paths"]["/v1/predict"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "application/json"}


def test_metrics(serving, predict, png):
    server = serving()
    predict(server, ("files", "a.png", png()), ("files", "b.png", png()))
    predict(server)
    answer = server.ask("GET", "/metrics")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.value.decode())
        for sample in family.samples
    }
    assert samples[("anovl_requests_total", "/v1/predict", "200")] == 1
    assert samples[("anovl_requests_total", "/v1/predict", "422")] == 1
    assert samples[("anovl_images_total",)] == 2
    assert samples[("anovl_batch_images_sum", "grey")] == 2
    assert samples[("anovl_request_seconds_count", "/v1/predict")] == 2
    assert samples[("anovl_queue_images",)] == 0


def test_token(serving, predict, png):
    server = serving(token="s3cret")
    assert server.ask("GET", "/healthz").status == 200
    for path in ("/readyz", "/v1/info", "/metrics", "/openapi.json", "/nowhere"):
        refused = server.ask("GET", path)
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    image = ("files", "a.png", png())
    for given in (None, "Bearer other", "s3cret", "Basic s3cret", "Bearer s3cret ", "Bearer é"):
        headers = {} if given is None else {"Authorization": given}
        expected = 200 if given == "Bearer s3cret " else 401  # HTTP itself takes the space off
        assert predict(server, image, headers=headers).status == expected, given
    assert predict(server, image, headers={"Authorization": "Bearer s3cret"}).status == 200
    assert anovl.Client(server.url, "s3cret").predict(png(51))[0].pred_score == pytest.approx(0.2)
    with pytest.raises(anovl.ServiceError, match="401"):
        anovl.Client(server.url).info()


def test_a_full_queue(serving, predict, png):
    server = serving(queue_size=4, max_files=4, batch_size=2)
    server.model.gate.clear()
    image = ("files", "a.png", png())
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(predict, server, image, image) for _ in range(2)]
        wait_until(lambda: server.service.admission.images == 4)
        refused = predict(server, image)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        with pytest.raises(anovl.ServiceError, match="4 of 4 places") as error:
            anovl.Client(server.url).predict(png())
        assert error.value.retry_after_s == 1
        server.model.gate.set()
        assert [one.result().status for one in waiting] == [200, 200]
    assert predict(server, image).status == 200


def wait_until(what):
    until = time.monotonic() + 10
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_time_is_limited(serving, predict, png):
    server = serving(timeout_s=0.3)
    server.model.gate.clear()
    late = predict(server, ("files", "a.png", png()))
    assert late.status == 504
    assert server.service.admission.images == 0
    server.model.gate.set()
    assert predict(server, ("files", "a.png", png())).status == 200
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_does_not_come(serving, monkeypatch):
    monkeypatch.setattr("anovl.server.running.HEADERS_S", 0.2)
    server = serving()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHo")
        assert slow.recv(4096) == b""


def test_an_answer_that_is_not_taken(serving, form, png, monkeypatch):
    monkeypatch.setattr("anovl.server.running.ANSWER_S", 0.3)
    server = serving()
    body, headers = form(("files", "a.png", png(9, (2000, 2000))), ("return", "map"), ("map_format", "npy"))
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nContent-Type: {headers['Content-Type']}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as caller:
        caller.sendall(head.encode() + body)
        wait_until(lambda: server.server.server_state.total_requests == 1)
        wait_until(lambda: not server.server.server_state.connections)


def test_faults_say_nothing_and_stay_with_the_request(serving, predict, png, caplog):
    server = serving(max_wait_ms=200)
    with ThreadPoolExecutor(2) as pool:
        bad, good = pool.map(lambda grey: predict(server, ("files", "a.png", png(grey))), (0, 255))
    assert (bad.status, good.status) == (500, 200)
    assert "secret" not in json.dumps(bad.value)
    assert bad.value["request_id"]
    assert "secret reason" in caplog.text


def test_a_caller_that_goes_away(serving, form, png):
    server = serving()
    server.model.gate.clear()
    body, headers = form(("files", "a.png", png()))
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\nContent-Type: {headers['Content-Type']}\r\n\r\n"
    )
    for part in (body[:40], body):
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(head.encode() + part)
            if part is body:
                wait_until(lambda: server.service.admission.images == 1)
    server.model.gate.set()
    wait_until(lambda: server.service.admission.images == server.service.admission.body_bytes == 0)
    assert not server.service._running
    assert server.ask("GET", "/healthz").status == 200


def test_draining(serving, predict, png):
    server = serving(drain_s=0.2)
    image = ("files", "a.png", png())
    server.model.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(predict, server, image)
        wait_until(lambda: server.service.admission.images == 1)
        server.service.draining = True
        assert server.ask("GET", "/readyz").status == predict(server, image).status == 503
        assert server.ask("GET", "/healthz").status == 200
        server.server.should_exit = True  # after drain_s the one that waits is told so
        stopped = waiting.result()
    assert stopped.status == 503
    assert "stopped before" in stopped.value["detail"]


def test_draining_without_a_server(serving, form, png):
    service, gate = (server := serving(drain_s=0.2)).service, server.model.gate
    body, headers = form(("files", "a.png", png()))

    async def run():
        transport = httpx.ASGITransport(create_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=headers) as client:
            gate.clear()
            waiting = asyncio.create_task(client.post("/v1/predict", content=body))
            while service.admission.images == 0:
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await service.drain()
            seconds = time.monotonic() - began
            return seconds, await waiting, await client.post("/v1/predict", content=body), await client.get("/readyz")

    seconds, *answers = asyncio.run(run())
    assert 0.2 <= seconds < 2
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert "stopped before" in answers[0].json()["detail"]


def test_metrics_of_several_services(serving, predict, png):
    texts = {}
    for name, count in (("a", 1), ("b", 2)):
        server = serving()
        for _ in range(count):
            predict(server, ("files", "a.png", png()))
        texts[name] = server.service.metrics.text()
    text = merged(texts).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {sample.labels["replica"]: sample.value for sample in families["anovl_images"].samples} == {"a": 1, "b": 2}
    assert families["anovl_request_seconds"].type == "histogram"
    lines = text.splitlines()
    assert len([line for line in lines if line.startswith("# TYPE")]) == len(families)
    assert len([line for line in lines if not line.startswith("#")]) == sum(
        line[:1] != "#" for one in texts.values() for line in one.decode().splitlines()
    )


def test_a_file_that_is_no_picture_fails_the_request(shared, predict, png):
    answer = predict(shared, ("files", "good.png", png()), ("files", "bad.png", b"text"))
    assert answer.status == 415
    assert answer.value["detail"].startswith("bad.png: ")
    assert shared.model.batches == []


def test_a_truncated_picture(shared, predict):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    whole = stream.getvalue()
    for cut in range(9, len(whole) - 200, 97):
        assert predict(shared, ("files", "cut.png", whole[:cut])).status == 415


def test_large_bodies_are_not_read_to_the_end(serving, predict, png):
    server = serving(max_bytes=10_000)
    assert predict(server, ("files", "a.png", bytes(20_000))).status == 413
    chunked = server.ask("POST", "/v1/predict", iter([bytes(1000)] * 20), {"Content-Type": "application/json"})
    assert chunked.status == 413
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as caller:
        caller.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9999999999\r\n\r\n"
        )
        assert caller.recv(4096).startswith(b"HTTP/1.1 413 ")  # before a byte of it came
    assert predict(server, ("files", "a.png", png())).status == 200


def test_pixels_are_limited(serving, predict, png):
    server = serving(max_pixels=1000)
    assert predict(server, ("files", "a.png", png(9, (40, 26)))).status == 413
    images = [("files", "a.png", png(9, (20, 20)))] * 3
    assert predict(server, *images).status == 200
    assert predict(server, *images, ("return", "map")).status == 413


@pytest.mark.parametrize("kind", ["multipart", "json"])
def test_mangled_requests(shared, form, kind):
    """Cut, repeated, and overwritten: whatever comes of it is no fault of the service."""
    rng = np.random.default_rng(0)
    stream = io.BytesIO()
    Image.effect_noise((24, 24), 60).save(stream, "PNG")
    fields = {"class_name": "nut", "threshold": 0.4, "map_format": "npy"}
    if kind == "json":
        whole = json.dumps(
            {"images": [base64.b64encode(stream.getvalue()).decode()], "return": ["map", "overlay"], **fields}
        ).encode()
        headers = {"Content-Type": "application/json"}
    else:
        pairs = [(name, str(value)) for name, value in fields.items()]
        whole, headers = form(("files", "a.png", stream.getvalue()), ("return", "map,overlay"), *pairs)
    statuses = []
    for number in range(150):
        body = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at, length = int(rng.integers(len(body))), int(rng.integers(1, 40))
            body[at : at + length] = (b"", rng.bytes(length), body[at : at + length] * 2, b"\r\n--b0undary\r\n")[number % 4]
        statuses.append(shared.ask("POST", "/v1/predict", bytes(body), headers).status)
    assert set(statuses) <= {200, 400, 413, 415, 422}
    assert shared.service.admission.images == shared.service.admission.body_bytes == 0
