"""The Dockerfile, without a container engine: what it says, and its commands run one by one in a folder that stands for /."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import pytest
from PIL import Image

from anovl import AnoVL, Client

REPOSITORY = Path(__file__).parents[2]
UID = 10001


def instructions():
    """(name, text) of each instruction, lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (REPOSITORY / "Dockerfile").read_text())
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [tuple(re.split(r"\s+", line, maxsplit=1)) for line in lines if line.strip()]


def of(name):
    return [text for instruction, text in instructions() if instruction == name]


def health():
    """The command of HEALTHCHECK."""
    return json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])


def test_what_it_says():
    assert {name for name, _ in instructions()} <= {
        *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "LABEL", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"),
    }
    build, final = of("FROM")
    assert build == f"{final} AS build"
    assert final.startswith("python:3")
    assert final.endswith("-slim")
    names = [name for name, _ in instructions()]
    assert "RUN" not in names[names.index("FROM", 1) :]  # what builds stays in the first stage
    assert (of("USER"), of("EXPOSE"), of("STOPSIGNAL")) == ([f"{UID}:{UID}"], ["8000"], ["SIGTERM"])
    assert json.loads(of("CMD")[0])[:4] == ["anovl", "serve", "--host", "0.0.0.0"]  # noqa: S104
    assert health()[0] == "python"
    assert "--constraint constraints.txt" in of("RUN")[-1]
    assert not re.search(r"https?://(?!127)", (REPOSITORY / "Dockerfile").read_text())
    values = dict(pair.split("=", 1) for pair in of("ENV")[0].split())
    assert all(values[name].startswith("/tmp") for name in ("HOME", "ANOVL_CACHE", "HF_HOME"))  # noqa: S108
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line.startswith("!")}
    sources = {name for text in of("COPY") if "--from" not in text for name in text.split()[:-1]}
    assert sources == kept
    assert all((REPOSITORY / name).exists() for name in sources)


@pytest.fixture
def root():
    """A folder for /, which another user may enter, as pytest's own may not be."""
    folder = Path(tempfile.mkdtemp(prefix="anovl-image-"))
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+w", folder], check=True)
    shutil.rmtree(folder)


def build(root):
    """WORKDIR, COPY and RUN of the first stage."""
    here = root
    environment = os.environ | {name: value for name, _, value in (text.partition("=") for text in of("ARG")) if value}
    environment.pop("PYTHONPATH", None)
    for name, text in instructions()[1:]:
        if name == "FROM":
            break
        if name == "WORKDIR":
            here = root / text[1:]
            here.mkdir(parents=True)
        elif name == "COPY":
            *sources, target = text.split()
            for source in sources:
                if (REPOSITORY / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(REPOSITORY / source, here / target, ignore=ignored)
                else:
                    shutil.copy(REPOSITORY / source, here / target)
        elif name == "RUN":
            command = text.replace("/opt/", f"{root}/opt/").replace("python -m", f"{base_python()} -m")
            subprocess.run(command, shell=True, cwd=here, env=environment, check=True)  # noqa: S602
    shutil.rmtree(root / "src")  # the second stage starts anew
    return root / "opt/anovl/bin"


def base_python():
    """The interpreter outside of any virtual environment."""
    return Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")


@pytest.mark.parametrize("place", ["here", pytest.param("clean", marks=pytest.mark.slow)])
def test_its_commands(root, place):
    scripts = build(root) if place == "clean" else Path(sysconfig.get_path("scripts"))
    assert place == "here" or not list(scripts.glob("pip*"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (root / "tmp").mkdir()
    subprocess.run(["chmod", "-R", "a+rX,a-w", root], check=True)
    (root / "tmp").chmod(0o777)
    values = dict(pair.split("=", 1) for pair in of("ENV")[0].split())
    environment = {name: value.replace("/tmp", f"{root}/tmp") for name, value in values.items()}  # noqa: S108
    environment |= {"PATH": f"{scripts}:/usr/bin:/bin", "TMPDIR": str(root / "tmp")}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if place == "here" and name in os.environ}
    options = {"cwd": root / "tmp", "env": environment}
    unprivileged = []
    if os.geteuid() == 0 and may_enter(scripts, **options):
        options |= {"user": UID, "group": UID, "extra_groups": []}
    elif os.geteuid() == 0 and shutil.which("setpriv"):  # the interpreter is root's own: root, but file modes count
        unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    offline = AnoVL.from_pretrained("mini")
    before = state(root)
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(picture, "PNG")

    def healthy():
        command = [text.replace("8000", str(port)) for text in health()]
        return subprocess.run([*unprivileged, *command], check=False, stderr=subprocess.DEVNULL, **options).returncode

    process = subprocess.Popen([*unprivileged, *json.loads(of("CMD")[0]), "--port", str(port)], **options)
    try:
        until = time.monotonic() + 60
        while healthy() != 0:
            assert process.poll() is None
            assert time.monotonic() < until
        client = Client(f"http://127.0.0.1:{port}")
        (got,) = client.predict(picture.getvalue(), "nut")
        assert got.pred_score == pytest.approx(offline.predict(picture.getvalue(), "nut").pred_score, abs=1e-4)
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0
    assert healthy() == 1
    assert state(root) == before


def may_enter(scripts, **options):
    """Whether the image's user can run the interpreter where it is."""
    command = [scripts / "python", "-c", "import anovl"]
    try:
        return subprocess.run(command, check=False, user=UID, group=UID, extra_groups=[], **options).returncode == 0
    except PermissionError:
        return False


def state(root):
    """Files outside of the temporary folder, and when they were written."""
    return {(path, path.lstat().st_mtime_ns) for path in root.rglob("*") if root / "tmp" not in (path, *path.parents)}
