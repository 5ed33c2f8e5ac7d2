"""The bash and python blocks of every page run, in order, in one folder a page.

`<!-- setup: bash` before a block, up to `-->`, runs unseen; `<!-- background -->` lets a block run until the page ends;
`<!-- not run: WHY -->` leaves one out. A toml block that begins with `# NAME.toml` becomes that file. Blocks of a page share
variables and environment; port 8000 stands for a free one.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RUN = ("bash", "python")
SHOWN = ("text", "json", "toml")
BLOCK = re.compile(
    r"^<!-- setup: (?P<hidden>\w+)\n(?P<setup>.*?)^-->$"
    r"|(?:^<!-- (?P<mark>[^\n]+?) -->\n)?^(?P<fence>```+)(?P<language>[^\n]*)\n(?P<code>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    page: Path
    line: int  # of its first line of code
    language: str
    mark: str
    code: str

    @property
    def runs(self):
        return self.language in RUN and not self.mark.startswith("not run")


def blocks(page):
    text = page.read_text()
    for found in BLOCK.finditer(text):
        part = "setup" if found["hidden"] else "code"
        line = text.count("\n", 0, found.start(part)) + 1
        yield Block(page, line, found["hidden"] or found["language"], found["mark"] or "", found[part])


def test_every_block_runs_or_says_why_not():
    every = [block for page in PAGES for block in blocks(page)]
    for page, line, language, mark, _ in every:
        assert language in (*RUN, *SHOWN) or language.startswith("{"), f"{page}:{line}: a block of {language or 'no language'}"
        assert re.fullmatch(r"|background|not run: \w.*\w.*", mark), f"{page}:{line}: {mark}"
    for page in PAGES:
        assert not re.search(r"\n\n {4}\S", BLOCK.sub("", page.read_text())), f"{page}: code without a fence"
    code = [block for block in every if block.language in RUN]
    left_out = [block for block in code if not block.runs]
    print(f"\n{len(code)} blocks, {len(left_out)} not run")
    for page, line, _, mark, _ in left_out:
        print(f"{page.name}:{line}: {mark}")
    assert len(left_out) < len(code) / 4


class Session:
    """Where the blocks of a page run."""

    def __init__(self, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        self.folder, self.names, self.started = folder, {}, []
        self.exports = folder / ".exports"
        self.exports.touch()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        # Nothing is fetched; two threads would wait for each other on a busy machine.
        settings = {"PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "ANOVL_PORT": self.port}
        self.environment = {**os.environ, **settings}

    def run(self, block):
        code = block.code.replace("8000", self.port)
        if block.language == "python":  # lines are counted from the page's first, for tracebacks
            exec(compile("\n" * (block.line - 1) + code, block.page, "exec", dont_inherit=True), self.names)  # noqa: S102
            return
        process = self.bash(f". {self.exports}\ntrap 'export -p > {self.exports}' EXIT\n{code}")
        if block.mark == "background":
            return
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, f"{block.page}:{block.line}: exit code {process.returncode}\n{code}\n{output}"

    def bash(self, code):
        command = ["bash", "-euo", "pipefail", "-c", code]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.started.append(subprocess.Popen(command, cwd=self.folder, env=self.environment, start_new_session=True, **pipes))
        return self.started[-1]

    def end(self):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.runs for block in blocks(page))], ids=lambda page: page.stem
)
def test_blocks_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = Session(tmp_path)
    try:
        for block in blocks(page):
            if block.language == "toml" and (name := re.match(r"# (\w+\.toml)", block.code)):
                (tmp_path / name[1]).write_text(block.code)
            if block.runs:
                session.run(block)
    finally:
        session.end()
