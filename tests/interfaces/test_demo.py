"""anovl demo: what it writes, what the page shows, and how it fails."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from anovl import AnoVL, demonstration
from anovl.cli import app
from anovl.config import DEFAULT_MODEL
from anovl.metrics import auroc, pro

CLASSES = ("washer", "metal nut", "marble")  # the last one is held out


def run(*arguments, env=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env=env)


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def demo(golden_name, tmp_path_factory):
    """A run of three classes: (result, folder, page)."""
    out = tmp_path_factory.mktemp("demo") / "out"
    result = run("demo", "-o", out, "--classes", ",".join(CLASSES), "--model", golden_name, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    return result, out, Page((out / "index.html").read_text(encoding="utf-8"))


def rows(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def truth_of(out, row):
    name, _, kind, file = row["image_path"].split("/")
    if kind == "good":
        return np.zeros((240, 240), dtype=bool)
    return np.asarray(Image.open(out / "pictures" / name / "ground_truth" / kind / f"{file[:-4]}_mask.png")) > 0


def test_what_it_says(demo, golden_name):
    result, out, _ = demo
    assert result.stdout == f"{out / 'index.html'}\n"
    assert "12 pictures" in result.stderr
    assert f'anovl predict YOUR_FOLDER --class-name "metal nut" --model {golden_name} -o out' in result.stderr
    assert f'anovl predict YOUR_FOLDER --class-name "metal nut" --model {DEFAULT_MODEL} -o out' in result.stderr


def test_what_it_writes(demo):
    _, out, _ = demo
    assert sorted(path.name for path in out.iterdir()) == ["index.html", "overlay", "pictures", "predictions.jsonl", "run.json"]
    found = rows(out)
    assert [row["class_name"] for row in found] == [name for name in CLASSES for _ in range(4)]
    for row in found:
        assert Image.open(out / "pictures" / row["image_path"]).size == (240, 240)
        assert (out / "overlay" / row["image_path"]).is_file()
    assert sum("/good/" not in row["image_path"] for row in found) == 6
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "done"
    assert record["counts"] == {"scored": 12, "failed": 0}
    assert record["settings"]["class_names"] == list(CLASSES)
    assert (record["settings"]["seed"], record["settings"]["per_class"]) == (0, 4)
    assert record["versions"]["torch"]


def test_the_page_is_one_file_with_every_picture(demo):
    _, out, page = demo
    cards = [attributes for attributes in page.all("li") if "data-outcome" in attributes]
    assert [card["data-class"] for card in cards] == [name for name in CLASSES for _ in range(4)]
    images = page.all("img")
    assert len(images) == 6 * 3 + 6 * 2  # a good picture has no truth to show
    assert all(image["src"].startswith("data:image/jpeg;base64,") and len(image["alt"]) > 5 for image in images)
    for row in rows(out):
        assert f"pictures/{row['image_path']}" in page.texts
    assert all(not attributes.get("src", "data:").startswith(("http", "/")) for _, attributes in page.tags)
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert page.all("link") == []
    assert (out / "index.html").stat().st_size < 400_000
    decisions = {"anomalous" if row["pred_label"] else "normal" for row in rows(out)}
    over = sum(card["data-outcome"] in ("found", "false alarm") for card in cards)
    assert over == sum(row["pred_label"] for row in rows(out)), decisions


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(demo, browser, width):
    _, out, _ = demo
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((out / "index.html").absolute().as_uri())
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    images = page.evaluate("[...document.images].map(one => [one.complete, one.naturalWidth, one.getBoundingClientRect().width])")
    assert len(images) == 6 * 3 + 6 * 2
    assert all(complete and natural > 0 and 60 < shown <= width for complete, natural, shown in images)
    context.close()
    assert errors == []


def test_the_figures_are_those_of_the_predictions(demo, golden_backbone):
    _, out, page = demo
    detector = AnoVL(golden_backbone)
    expected = {}
    for name in CLASSES:
        own = [row for row in rows(out) if row["class_name"] == name]
        truths = [truth_of(out, row) for row in own]
        maps = [detector.predict(out / "pictures" / row["image_path"], name).anomaly_map for row in own]
        good = [row["pred_score"] for row, truth in zip(own, truths, strict=True) if not truth.any()]
        bad = [row["pred_score"] for row, truth in zip(own, truths, strict=True) if truth.any()]
        pairs = np.mean([1.0 if b > g else 0.5 if b == g else 0.0 for b in bad for g in good])
        expected[name] = [pairs, auroc(np.stack(maps), np.stack(truths)), pro(maps, truths)]
    seen = np.mean([expected["washer"], expected["metal nut"]], axis=0)
    table = [seen, expected["marble"], expected["washer"], expected["metal nut"], expected["marble"]]
    shown = [float(attributes["value"]) for attributes in page.all("data")]
    assert shown == pytest.approx(np.ravel(table).tolist(), abs=1e-4)
    assert [f"{value:.2f}" for value in shown] == [text for text in page.texts if text[:2] in ("0.", "1.") and len(text) == 4][
        :15
    ]


def test_classes_are_named_and_grouped(demo):
    _, _, page = demo
    start = page.texts.index("Class")
    named = [text for text in page.texts[start:] if text in (*CLASSES, "Seen by mini", "Held out")]
    assert named[:7] == ["Seen by mini", "Held out", "Seen by mini", "washer", "metal nut", "Held out", "marble"]


def test_one_picture_a_class_has_no_figures(golden_name, tmp_path):
    result = run("--quiet", "demo", "-o", tmp_path / "out", "--classes", "bean", "--per-class", "1", "--model", golden_name)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert page.all("data") == []
    reasons = [attributes["title"] for attributes in page.all("span") if "title" in attributes]
    assert any("AUROC needs good and anomalous" in reason for reason in reasons)
    assert any("PRO needs defects" in reason for reason in reasons)


def test_a_large_run_shows_a_part(golden_backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(demonstration, "MOST_CARDS", 5)
    calls = []
    page = demonstration.demonstrate(
        AnoVL(golden_backbone), tmp_path / "out", ["bean"], per_class=8, on_picture=lambda: calls.append(1)
    )
    cards = [attributes for attributes in Page(page.read_text(encoding="utf-8")).all("li") if "data-outcome" in attributes]
    assert len(calls) == len(rows(tmp_path / "out")) == 8
    assert [card["data-outcome"] in ("found", "missed") for card in cards] == [True, True, True, False, False]


def test_the_seed_chooses_the_pictures(golden_backbone, tmp_path):
    detector = AnoVL(golden_backbone)
    pages = [
        demonstration.demonstrate(detector, tmp_path / name, ["bean"], per_class=2, seed=seed).read_bytes()
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert pages[0] == pages[1] != pages[2]


WRONG = {
    "unknown class": (["--classes", "washr"], 2, "did you mean 'washer'"),
    "no class": (["--classes", " , "], 2, "at least one"),
    "negative seed": (["--seed", "-1"], 2, "--seed"),
    "no pictures": (["--per-class", "0"], 2, "--per-class"),
    "output is a file": (["-o", "{there}/file"], 1, "cannot be written"),
    "output below a file": (["-o", "{there}/file/out"], 1, "cannot be written"),
    "output of a run": (["-o", "{there}/run"], 2, "already holds a run"),
    "page in the way": (["-o", "{there}/site"], 2, "already holds a page (index.html)"),
    "exported file": (["--model", "nut.onnx"], 2, "expected a checkpoint, got an exported file"),
    "pictures in the way": (["-o", "{there}/full"], 2, "not empty"),
    "absent folder": (["--model", "local-dir:{there}/absent"], 5, "no such folder"),
    "malformed model": (["--model", "minni"], 2, "expected mini"),
    "unknown device": (["--device", "cudaa"], 2, "did you mean 'cuda'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage(golden_name, tmp_path, case):
    arguments, code, message = WRONG[case]
    there = tmp_path / "there"
    for folder in ("run", "full/pictures", "site"):
        (there / folder).mkdir(parents=True)
    for file in ("file", "run/run.json", "full/pictures/own.png", "site/index.html"):
        (there / file).write_text("{}")
    before = sorted(there.rglob("*"))
    filled = [argument.format(there=there) for argument in arguments]
    output = [] if "-o" in filled else ["-o", tmp_path / "out"]
    result = run("demo", "--classes", "bean", "--per-class", "2", *filled, *output, env={"ANOVL_MODEL": golden_name})
    assert result.exit_code == code, result.stderr
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert sorted(there.rglob("*")) == before
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_says_what_to_do(golden_name, tmp_path, monkeypatch):
    def interrupted(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demonstration, "write_page", interrupted)
    result = run("demo", "-o", tmp_path / "out", "--classes", "bean", "--per-class", "2", "--model", golden_name)
    assert result.exit_code == 130
    assert f"stopped before the page was written; remove {tmp_path / 'out'} to start anew" in result.stderr


def test_a_build_without_mini(tmp_path, monkeypatch):
    monkeypatch.setattr("anovl.checkpoints.embedded_folder", lambda name: Path(tmp_path, "assets", name))
    result = run("demo", "-o", tmp_path / "out", "--classes", "bean")
    assert result.exit_code == 5
    assert "'mini' is not part of this build" in result.stderr
    assert not (tmp_path / "out").exists()
