"""What tests of commands share."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from anovl.cli import app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    if CHROMIUM is None and not os.environ.get("CI"):
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield browser
        browser.close()


@pytest.fixture
def run(golden_name, monkeypatch):
    """run("predict", ..., stdin=TEXT) with the golden model unless another is named; returns click's result."""
    monkeypatch.setenv("ANOVL_MODEL", golden_name)
    monkeypatch.setenv("ANOVL_DEVICE", "cpu")

    def call(*arguments, stdin=None):
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return call


@pytest.fixture
def models_that_scored(monkeypatch):
    """The set of all models that scored a batch."""
    from anovl.detection import DetectionJob

    found = {}
    score = DetectionJob.score

    def noted(job, images):
        clip = job.detector.backbone.clip
        found[id(clip)] = clip  # kept, so that no other gets its id
        return score(job, images)

    monkeypatch.setattr(DetectionJob, "score", noted)
    return found
