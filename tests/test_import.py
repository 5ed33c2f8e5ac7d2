"""What importing costs: nothing heavy until it is used."""

import subprocess
import sys

import pytest

import anovl

HEAVY = ("torch", "open_clip", "numpy", "PIL", "scipy", "safetensors", "huggingface_hub")


def loaded_by(code):
    script = f"import sys\n{code}\nprint([m for m in {HEAVY} if m in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import anovl, anovl.errors, anovl.config; anovl.recipe('paper'); anovl.build_prompts('nut')",
        "import anovl.cli\ntry: anovl.cli.main()\nexcept SystemExit: pass",
    ],
    ids=["import anovl", "anovl (help)"],
)
def test_nothing_heavy_is_imported(code):
    assert loaded_by(code) == "[]"


def test_results_need_no_torch():
    assert loaded_by("from anovl import Prediction") == "['numpy']"


def test_public_names_resolve():
    for name in anovl.__all__:
        assert getattr(anovl, name) is not None
    assert set(anovl.__all__) <= set(dir(anovl))
    with pytest.raises(AttributeError, match="no attribute 'AnoVLL'"):
        anovl.AnoVLL  # noqa: B018
