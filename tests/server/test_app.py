"""The service over a real socket, with a model that scores brightness."""

import base64
import io
import json
import re
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import anovl


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
    assert two["regions"] == [{"box": [0, 0, 20, 10], "area": 200, "peak": pytest.approx(0.8), "centroid": [9.5, 4.5]}]
    assert two["class_name"] == "nut"
    assert set(two["timings_ms"]) == {"decode", "resize", "score"}
    assert not {"map", "overlay", "image_path"} & two.keys()


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


def bomb(width=30_000, height=30_000):
    """A PNG of a few hundred bytes that says it is 900 megapixels."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")


FILES = {
    "empty": (b"", 415),
    "text": (b"not a picture", 415),
    "html": (b"<html><script>alert(1)</script></html>", 415),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', 415),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "pdf": (b"%PDF-1.7\n", 415),
    "zip": (b"PK\x03\x04" + bytes(60), 415),
    "gif head": (b"GIF89a" + bytes(7), 415),
    "jpeg head": (b"\xff\xd8\xff\xe0" + bytes(60), 415),
    "bomb": (bomb(), 413),
    "flat bomb": (bomb(2**31 - 1, 1), 413),
    "no pixels": (bomb(0, 0), 415),
    "pickle": (b"\x80\x04cos\nsystem\n", 415),
    "npy": (b"\x93NUMPY\x01\x00", 415),
    "tiff": (b"II*\x00\xff\xff\xff\xff", 415),
    "webp": (b"RIFF\xff\xff\xff\xffWEBPVP8 ", 415),
    "path": (b"/etc/passwd", 415),
    "url": (b"http://127.0.0.1/picture.png", 415),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_pictures(shared, predict, png, name):
    data, status = FILES[name]
    answer = predict(shared, ("files", "good.png", png()), ("files", f"{name}.png", data))
    assert answer.status == status
    assert answer.value["detail"].startswith(f"{name}.png: ")
    assert shared.model.batches == []


def test_a_truncated_picture(shared, predict):
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "PNG")
    whole = stream.getvalue()
    for cut in range(9, len(whole) - 200, 97):
        assert predict(shared, ("files", "cut.png", whole[:cut])).status == 415


FIELDS = [
    ([("threshold", "1.5")], 422),
    ([("threshold", "nan")], 422),
    ([("threshold", "inf")], 422),
    ([("threshold", "")], 422),
    ([("threshold", "0.1"), ("threshold", "0.2")], 422),
    ([("class_name", "")], 422),
    ([("class_name", "x" * 201)], 422),
    ([("class_name", "x" * 5000)], 413),
    ([("class_name", "unknown")], 422),
    ([("class_name", b"caf\xe9")], 422),
    ([("domain", "space")], 422),
    ([("adapt", "perhaps")], 422),
    ([("seed", "-1")], 422),
    ([("seed", "1e400")], 422),
    ([("return", "everything")], 422),
    ([("map_format", "exe")], 422),
    ([("model", "other")], 422),
    ([("image_url", "http://127.0.0.1/a.png")], 422),
    ([("files", "as text")], 422),
    ([("picture", "a.png", b"x")], 422),
    ([("__class__", "x")], 422),
    ([("defects", ",".join(map(str, range(17))))], 422),
    ([(f"f{index}", "x") for index in range(65)], 400),
    ([("defects", "x")] * 10_000, 400),
    ([("files", "a.png", b"")] * 10_000, 413),
]


@pytest.mark.parametrize(("parts", "status"), FIELDS, ids=range(len(FIELDS)))
def test_fields_that_are_refused(shared, predict, png, parts, status):
    answer = predict(shared, ("files", "a.png", png()), *parts)
    assert answer.status == status, answer.value


MULTIPART = "multipart/form-data; boundary=b"
BODIES = [
    (None, b"x", 415),
    ("text/plain", b"x", 415),
    ("application/x-www-form-urlencoded", b"files=x", 415),
    ("multipart/form-data", b"x", 400),
    (f"multipart/form-data; boundary={'b' * 300}", b"x", 400),
    (MULTIPART, b"", 400),
    (MULTIPART, b"--b\r\n", 400),
    (MULTIPART, b"--c--\r\n", 400),
    (MULTIPART, b"--b--\r\n", 422),
    (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\ncut', 400),
    (MULTIPART, b"--b\r\n" + b"X: y\r\n" * 5000 + b"\r\n\r\n--b--\r\n", 400),
    (MULTIPART, b"--b\r\nX: " + b"y" * 100_000 + b"\r\n\r\n\r\n--b--\r\n", 400),
    (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="files"; filename="\xff\xfe"\r\n\r\nx\r\n--b--\r\n', 422),
    (MULTIPART, b"--b\r\n\r\n\r\n--b--\r\n", 422),
    ("application/json", b"", 400),
    ("application/json", b"{", 400),
    ("application/json", b"[]", 422),
    ("application/json", b"null", 422),
    ("application/json", b"\xff\xfe{}", 400),
    ("application/json", b"[" * 100_000, 400),
    ("application/json", b"{}", 422),
    ("application/json", b'{"images": []}', 422),
    ("application/json", b'{"images": "aGk="}', 422),
    ("application/json", b'{"images": ["!"]}', 422),
    ("application/json", b'{"images": ["aGk"]}', 422),
    ("application/json", b'{"images": [1]}', 422),
    ("application/json", b'{"images": ["aGk="]}', 415),
    ("application/json", b'{"images": ["http://127.0.0.1/"]}', 422),
    ("application/json", b'{"images": ["aGk="], "threshold": NaN}', 422),
    ("application/json", b'{"images": ["aGk="], "threshold": "0.5"}', 422),
    ("application/json", b'{"images": ["aGk="], "seed": 1e3}', 422),
    ("application/json", b'{"images": ["aGk="], "class_name": "\\ud800"}', 400),
    ("application/json", b'{"images": [' + b'"aGk=",' * 16 + b'"aGk="]}', 413),
]


@pytest.mark.parametrize(("kind", "body", "status"), BODIES, ids=range(len(BODIES)))
def test_bodies_that_are_refused(shared, kind, body, status):
    answer = shared.ask("POST", "/v1/predict", body, {"Content-Type": kind} if kind else {})
    assert answer.status == status, answer.value


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


RAW = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: y\r\n" % index for index in range(20_000)) + b"\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", RAW, ids=range(len(RAW)))
def test_requests_that_are_no_http(shared, request_bytes):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as caller:
        try:
            caller.sendall(request_bytes)
            answer = caller.recv(4096)
        except ConnectionError:
            answer = b""  # closed while it was still sending
    assert not answer or re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert shared.ask("GET", "/healthz").status == 200


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
