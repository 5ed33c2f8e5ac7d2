"""The wheel by itself: its size, what is in it, and the demo from it without network."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from anovl.checkpoints import EMBEDDED

ROOT = Path(__file__).parents[1]
OFFLINE = """
import runpy, socket, sys

def refuse(*_):
    raise OSError("no network")

socket.socket.connect = socket.socket.connect_ex = refuse
import anovl

print(anovl.__file__, file=sys.stderr)
runpy.run_module("anovl", run_name="__main__")
"""


@pytest.mark.slow
def test_the_wheel_runs_the_demo_without_network(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("anovl-*.whl")
    assert wheel.stat().st_size < 40e6
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist() if "/assets/" in info.filename}
    for name in EMBEDDED:
        assert sizes[f"anovl/assets/{name}/open_clip_model.safetensors"] < 16e6
        assert {f"anovl/assets/{name}/{file}" for file in ("open_clip_config.json", "bpe.txt.gz")} < sizes.keys()
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", tmp_path / "site", wheel], check=True)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "demo", "--classes", "washer", "--per-class", "2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith(str(tmp_path / "site"))
    assert done.stdout == "demo-out/index.html\n"
    assert (tmp_path / "demo-out/index.html").stat().st_size > 10_000
