"""anovl ui as a process, in a real headless Chromium."""

import contextlib
import csv
import http.client
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

import anovl
from anovl.data.synthetic import draw

CLASS = "#class-name input, #class-name textarea"


@contextlib.contextmanager
def page_server(*arguments, temporary, **environment):
    """A running `anovl ui` on a free port: .process, .url."""
    command = [sys.executable, "-m", "anovl", "ui", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary)} | environment
    )
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if found := re.match(r"anovl: open (http://\S+)/ui/", line):
                break
        else:
            pytest.fail("".join(log))
        reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
        reader.start()
        yield SimpleNamespace(process=process, url=found[1], log=log, temporary=temporary)
    finally:
        process.terminate()
        try:
            process.wait(15)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with page_server(temporary=tmp_path_factory.mktemp("temporary")) as one:
        yield one


@pytest.fixture
def opened(browser, served):
    """Opens the page: opened(width=..., color_scheme=...); fails where it asked another host for anything."""
    contexts, foreign, errors = [], [], []

    def open_page(width=1280, height=900, url=served.url, **settings):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **settings))
        page = contexts[-1].new_page()
        page.on("request", lambda request: None if _own(request.url, url) else foreign.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{url}/ui/")
        page.wait_for_selector("#find")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert (foreign, errors) == ([], [])


def _own(address, url):
    return address.startswith((url, "data:", "blob:"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Files: 4 drawn pills with a defect, 20 good ones, a broken one."""
    folder = tmp_path_factory.mktemp("pictures")

    def save(name, seed, defect):
        path = folder / f"{name}.png"
        Image.fromarray(draw("pill", seed, defect=defect, severity=(0.6, 1.0)).image).save(path)
        return path

    bad = [save(f"bad {seed}", seed, kind) for seed, kind in enumerate(("crack", "hole", "stain", "scratch"))]
    good = [save(f"good {seed}", 100 + seed, None) for seed in range(20)]
    broken = folder / "broken.png"
    broken.write_bytes(bad[0].read_bytes()[:2000])
    return SimpleNamespace(bad=bad, good=good, broken=broken)


def upload(page, files, *, into="#files"):
    page.set_input_files(f"{into} input[type=file]", files)
    expect(page.locator(f"{into} .file-preview tr")).to_have_count(len(files), timeout=20_000)


def find(page, files, class_name="pill"):
    upload(page, files)
    page.fill(CLASS, class_name)
    page.click("#find")
    page.wait_for_selector(".verdict", timeout=60_000)


def source_of(page, panel):
    return page.get_attribute(f"{panel} img", "src")


def changed(page, panel, before):
    page.wait_for_function("([panel, before]) => document.querySelector(`${panel} img`).src !== before", arg=[panel, before])


def mask_of(page):
    """The mask that is shown, as an array."""
    png = page.request.get(source_of(page, "#mask")).body()
    return np.asarray(Image.open(io.BytesIO(png)).convert("L")) > 0


def score_of(page):
    return float(re.search(r"score (\d\.\d+)", page.inner_text(".verdict"))[1])


def set_slider(page, slider, value):
    page.fill(f"{slider} input[type=number]", str(value))
    page.press(f"{slider} input[type=number]", "Enter")


def test_an_example_says_what_was_found(opened):
    page = opened()
    assert "small embedded" in page.inner_text("body") or "drawn pictures" in page.inner_text("body")  # a word about mini
    page.click("#examples button >> nth=0")
    page.wait_for_selector(".verdict")
    assert "not calibrated" in page.inner_text(".verdict")
    assert page.input_value(CLASS) == "metal nut"
    expect(page.locator("#regions tbody tr")).not_to_have_count(0)
    assert page.locator("#gallery button").count() == 0  # one picture is no batch
    assert [page.get_attribute(f"{panel} img", "alt") for panel in ("#picture", "#heat", "#mask")] == [
        "Picture",
        "Heat map",
        "Mask",
    ]


def test_the_thresholds_redraw_and_score_nothing(opened, pictures, served):
    page = opened()
    find(page, pictures.bad[:1])
    own = anovl.AnoVL.from_pretrained("mini").predict(pictures.bad[0], "pill")
    assert score_of(page) == pytest.approx(own.pred_score, abs=6e-4)  # three digits are shown
    assert np.array_equal(mask_of(page), own.mask())
    for value in (0.2, 0.3):
        before = source_of(page, "#mask")
        set_slider(page, "#pixel", value)
        changed(page, "#mask", before)
        assert np.array_equal(mask_of(page), own.mask(value))
        expect(page.locator("#regions tbody tr")).to_have_count(min(len(own.regions(value)), 20))
    assert score_of(page) == pytest.approx(own.pred_score, abs=6e-4)
    set_slider(page, "#threshold", 0.01)
    expect(page.locator(".verdict strong")).to_have_text("anomalous")
    set_slider(page, "#threshold", 0.99)
    expect(page.locator(".verdict strong")).to_have_text("normal")
    for control, panel in (("#contours input", "#heat"), ("#boxes input", "#picture")):
        before = source_of(page, panel)
        page.click(control)
        changed(page, panel, before)
    before = source_of(page, "#heat")
    set_slider(page, "#opacity", 0)
    changed(page, "#heat", before)


def test_a_batch_a_broken_file_and_the_download(opened, pictures, tmp_path):
    page = opened()
    find(page, [*pictures.bad, pictures.good[0], pictures.broken])
    alert = page.locator("#status [role=alert]")
    expect(alert).to_contain_text("broken.png")
    expect(page.locator("#gallery button")).to_have_count(5)
    scores = [float(text) for text in page.locator("#gallery button span:first-of-type").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert "5 scores" in page.get_attribute("#histogram svg", "aria-label")
    page.click("#gallery button >> nth=2")
    expect(page.locator("#gallery button >> nth=2")).to_have_attribute("aria-pressed", "true")
    page.wait_for_function("score => document.querySelector('.verdict').innerText.includes(score)", arg=f"score {scores[2]:.3f}")
    set_slider(page, "#threshold", 0.6)
    page.wait_for_function("document.querySelector('#histogram svg').ariaLabel.includes('threshold 0.6')")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "anovl-results.zip"
    download.value.save_as(tmp_path / "results.zip")
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        rows = [json.loads(line) for line in archive.read("anovl-results/predictions.jsonl").splitlines()]
        table = list(csv.DictReader(io.TextIOWrapper(archive.open("anovl-results/predictions.csv"), "utf-8")))
        run = json.loads(archive.read("anovl-results/run.json"))
        assert "broken.png" in archive.read("anovl-results/errors.jsonl").decode()
    assert {f"anovl-results/{kind}/{path.stem}.png" for kind in ("overlay", "mask") for path in pictures.bad} < names
    detector = anovl.AnoVL.from_pretrained("mini")
    for path, row in zip([*pictures.bad, pictures.good[0]], rows, strict=True):
        own = detector.predict(path, "pill")
        assert row["image_path"] == path.name
        assert row["pred_score"] == pytest.approx(own.pred_score, abs=1e-5)
        assert (row["threshold"], row["pixel_threshold"]) == (0.6, 0.5)
    assert [one["image_path"] for one in table] == [row["image_path"] for row in rows]
    assert (run["settings"]["class_name"], run["settings"]["model"], run["settings"]["threshold"]) == ("pill", "mini", 0.6)


def test_a_folder(opened, pictures, tmp_path):
    for number, path in enumerate(pictures.bad[:3]):
        inner = tmp_path / "parts" / f"{number}"
        inner.mkdir(parents=True)
        shutil.copy(path, inner / "part.png")  # the same name in three folders
    (tmp_path / "parts" / "notes.txt").write_text("no picture")
    page = opened()
    page.click("button[role=tab] >> text=Folder")
    page.set_input_files("#folder input[type=file]", tmp_path / "parts")
    expect(page.locator("#folder .file-preview tr")).to_have_count(4, timeout=20_000)
    page.fill(CLASS, "pill")
    page.click("#find")
    expect(page.locator("#gallery button")).to_have_count(3, timeout=30_000)
    assert sorted(page.locator("#gallery button span:last-of-type").all_inner_texts()) == ["part-2.png", "part-3.png", "part.png"]
    assert page.locator("#status [role=alert]").count() == 0  # notes.txt is passed over, as `anovl predict` does


def test_a_photo(opened):
    page = opened(permissions=["camera"])
    page.click("button[role=tab] >> text=Camera")
    page.click("#camera >> text=/access webcam/i")
    page.wait_for_function("document.querySelector('#camera video')?.videoWidth > 0", timeout=20_000)
    page.click("#camera button[aria-label*='capture' i]")
    page.wait_for_selector("#camera img", timeout=20_000)
    page.fill(CLASS, "circle")
    page.click("#find")
    page.wait_for_selector(".verdict", timeout=30_000)
    expect(page.locator("#mask img")).to_be_visible()  # the page may show the verdict before the pictures


@pytest.mark.slow
def test_calibration(opened, pictures, tmp_path):
    page = opened()
    find(page, pictures.bad[:2])
    page.click("#calibration button >> nth=0")
    page.click("#calibrate")
    expect(page.locator("#calibrated [role=alert]")).to_contain_text("Choose some good pictures")
    upload(page, pictures.good, into="#good")
    page.click("#calibrate")
    expect(page.locator("#calibrated")).to_contain_text("4.76 %", timeout=60_000)
    expect(page.locator(".verdict")).to_contain_text(", calibrated")
    with page.expect_download() as download:
        page.click("#profile")
    download.value.save_as(tmp_path / "profile.json")
    profile = json.loads((tmp_path / "profile.json").read_text())
    expected = anovl.AnoVL.from_pretrained("mini").calibrate(pictures.good, "pill", fpr=0.05)
    assert profile["image_threshold"] == pytest.approx(expected.image_threshold, abs=1e-5)
    assert profile["pixel_threshold"] == pytest.approx(expected.pixel_threshold, abs=1e-5)
    set_slider(page, "#threshold", 0.9)
    expect(page.locator(".verdict")).to_contain_text("not calibrated")

    other = opened()  # another visitor knows nothing of it, until the file is given
    find(other, pictures.bad[:1])
    expect(other.locator(".verdict")).to_contain_text("not calibrated")
    other.click("#calibration button >> nth=0")
    other.set_input_files("#earlier input[type=file]", tmp_path / "profile.json")
    expect(other.locator(".verdict")).to_contain_text(", calibrated")
    other.fill(CLASS, "washer")
    other.click("#find")
    expect(other.locator("#status")).to_contain_text("washer", timeout=30_000)
    expect(other.locator(".verdict")).to_contain_text("not calibrated")


def test_what_a_visitor_can_do_wrong(opened, pictures, tmp_path):
    page = opened()
    page.click("#find")
    expect(page.locator("#status [role=alert]")).to_contain_text("Choose pictures")
    upload(page, [pictures.broken])
    page.click("#find")
    expect(page.locator("#status [role=alert]")).to_contain_text("Say what the pictures show")
    page.fill(CLASS, "pill {0}")
    page.click("#find")
    expect(page.locator("#status [role=alert]")).to_be_visible()
    page.fill(CLASS, "pill")
    page.click("#find")
    expect(page.locator("#status [role=alert]")).to_contain_text("broken.png", timeout=30_000)
    expect(page.locator("#mask")).to_be_hidden()
    (tmp_path / "no profile.json").write_text("{")
    page.click("#calibration button >> nth=0")
    page.set_input_files("#earlier input[type=file]", tmp_path / "no profile.json")
    expect(page.locator("#calibrated [role=alert]")).to_contain_text("not a profile")
    assert str(tmp_path) not in page.inner_text("body")


@pytest.mark.slow
def test_stop_keeps_what_is_done(opened, pictures, tmp_path):
    page = opened()
    many = []
    for number in range(60):
        many.append(tmp_path / f"{number}.png")
        Image.open(pictures.good[number % 20]).resize((1500, 1500)).save(many[-1], compress_level=1)
    upload(page, many)
    page.fill(CLASS, "pill")
    page.click("#find")
    page.wait_for_function("Number(/(\\d+) of 60/.exec(document.querySelector('#status').innerText)?.[1]) >= 8", timeout=60_000)
    page.click("#stop")
    page.wait_for_selector("#gallery button", timeout=30_000)
    count = page.locator("#gallery button").count()
    assert 8 <= count < 60
    expect(page.locator("#status")).to_have_text(re.compile(rf"^\s*{count} pictures"))


def test_by_keyboard_alone(opened, pictures):
    page = opened()
    upload(page, pictures.bad[:2])
    page.focus(CLASS)
    page.keyboard.type("pill")
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict", timeout=30_000)
    before = source_of(page, "#mask")
    page.focus("#pixel input[type=range]")
    for _ in range(100):
        page.keyboard.press("ArrowLeft")
    changed(page, "#mask", before)
    first = page.inner_text(".verdict")
    page.focus("#gallery button >> nth=1")
    page.keyboard.press("Enter")
    page.wait_for_function("first => document.querySelector('.verdict').innerText !== first", arg=first)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_everybody_can_read_it(opened, pictures, scheme, width, tmp_path):
    page = opened(width=width, color_scheme=scheme)
    find(page, [*pictures.bad[:3], pictures.broken])
    for title in page.query_selector_all("button.label-wrap"):
        title.click()
    page.wait_for_timeout(500)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/ui-{scheme}-{width}.png", full_page=True)


def test_nothing_that_a_caller_names_is_fetched(served):
    asked = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    listener = http.server.HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        config = json.loads(_get(served.url, "/ui/config"))
        number = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) > 10)
        address = f"http://127.0.0.1:{listener.server_port}/a.png"
        file = {"path": address, "url": address, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        count = len(next(one for one in config["dependencies"] if one["id"] == number)["inputs"])
        body = json.dumps({"data": [[file]] * count, "fn_index": number, "session_hash": "x"})
        for path in ("queue/join", "run/predict", "api/predict", "call/find"):
            answer = _ask(served.url, "POST", f"/ui/gradio_api/{path}", body, {"Content-Type": "application/json"})
            assert 400 <= answer.status < 500
        for path in (f"proxy={address}", f"file={address}"):
            assert _ask(served.url, "GET", f"/ui/gradio_api/{path}").status in (302, 307, 400, 403, 404)
        time.sleep(0.5)
        assert asked == []
    finally:
        listener.shutdown()
        listener.server_close()


def test_what_the_page_does_not_send_is_refused(served):
    json_type = {"Content-Type": "application/json"}
    for method, path, body, status in (
        ("POST", "run/predict", '{"data": [], "fn_index": 0}', 404),
        ("POST", "call/find", "{}", 404),
        ("POST", "component_server", "{}", 404),
        ("PUT", "upload", "x", 404),
        ("DELETE", "queue/join", "", 404),
        ("POST", "upload", "x", 400),
        ("POST", "queue/join", "{", 422),
        ("POST", "queue/join", '{"data": [], "fn_index": 999, "session_hash": "a"}', 422),
        ("POST", "queue/join", "x" * 2_000_000, 413),
        ("POST", "cancel", "{}", 422),
    ):
        answer = _ask(served.url, method, f"/ui/gradio_api/{path}", body, json_type)
        assert answer.status == status, (method, path, answer.status, answer.value)
        assert b"Traceback" not in answer.value
    assert not any("Traceback" in line for line in served.log)


def test_no_file_of_the_machine_is_given_away(served):
    for path in ("/etc/passwd", __file__, f"{served.temporary}/../../etc/passwd"):
        assert _ask(served.url, "GET", f"/ui/gradio_api/file={urllib.parse.quote(path)}").status in (403, 404)


def _ask(url, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=20)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        answer.value = answer.read()
        return answer
    finally:
        connection.close()


def _get(url, path):
    return _ask(url, "GET", path).value


def test_the_token_is_the_password(browser, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    (tmp_path / "temporary").mkdir()
    with page_server("--token-file", tmp_path / "token", temporary=tmp_path / "temporary") as server:
        for path in ("/", "/ui/", "/ui/config", "/ui/gradio_api/info"):
            refused = _ask(server.url, "GET", path)
            assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, 'Basic realm="anovl"')
        basic = {"Authorization": "Basic dXNlcjpzM2NyZXQ="}  # user:s3cret
        assert _ask(server.url, "GET", "/ui/", headers=basic).status == 200
        assert _ask(server.url, "GET", "/v1/info", headers=basic).status == 401  # a browser's password is for the page alone
        assert _ask(server.url, "GET", "/ui/", headers={"Authorization": "Basic dXNlcjpvdGhlcg=="}).status == 401
        context = browser.new_context(http_credentials={"username": "", "password": "s3cret"})
        page = context.new_page()
        page.goto(server.url)
        page.click("#examples button >> nth=1")
        page.wait_for_selector(".verdict", timeout=30_000)

        # SIGTERM while the page is open: it ends at once, and takes what visitors left with it
        assert list((tmp_path / "temporary").glob("anovl-*")) != []
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert time.monotonic() - began < 5
        assert [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()] == []
        context.close()


def test_without_gradio(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('not here')\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "anovl", "ui"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.strip().count("\n") == 0
    assert "anovl[ui]" in done.stderr
