"""What a run on a cluster tells before it would wait or write for nothing."""

import logging

import pytest

from anovl.cluster.run import Pool, _watched
from anovl.cluster.storage import Folder
from anovl.errors import OutputError


def test_a_folder_of_this_machine_is_held(tmp_path):
    folder = Folder(str(tmp_path / "out"))
    with folder.held(), pytest.raises(OutputError, match="another run"), folder.held():
        raise AssertionError("held twice")
    with folder.held():  # and let go
        folder.write("run.json", b"{}")
    assert folder.read("run.json") == b"{}"


@pytest.mark.parametrize(("cpus", "told"), [(2, "2 actors leave none of 2 CPUs to decode"), (3, "")])
def test_actors_that_leave_no_cpu_are_told_of(cpus, told, monkeypatch, caplog):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": cpus})
    with caplog.at_level(logging.WARNING), _watched(Pool(smallest=2, largest=2)):
        pass
    assert told in caplog.text
    assert bool(caplog.records) == bool(told)


def test_gpus_that_are_not_there(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8, "GPU": 1})
    assert Pool(smallest=2, largest=2, gpus=0.5).starves() == ""
    assert Pool(smallest=3, largest=3, gpus=0.5).starves() == "3 actors take 1.5 GPUs, and there are 1"
