"""Names of devices: one, several, all, and what is none."""

import pytest
import torch

from anovl import AnoVL
from anovl.devices import pick_devices
from anovl.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("given", "picked"),
    [
        ("cpu", (CPU,)),
        (CPU, (CPU,)),
        ("cpu, cpu", (CPU, CPU)),
        (["cpu", CPU, "cpu"], (CPU, CPU, CPU)),
    ],
)
def test_one_or_several(given, picked):
    assert pick_devices(given) == picked


def test_all_is_every_cuda_device_or_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_devices("all") == pick_devices("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_devices("all") == (torch.device("cuda:0"), torch.device("cuda:1"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("cpu,", r"several with commas between, such as cuda:0,cuda:1, got 'cpu,'"),
        (",", "commas between"),
        ([], "commas between"),
        ("cpu,auto", "'auto' picks one"),
        ("cpu,all", "unknown device 'all'"),
        ("cpu,gpu", "unknown device 'gpu'"),
        ("cpu,cuda:99", "cuda:99"),
    ],
)
def test_what_is_no_device(given, says):
    with pytest.raises(UsageError, match=says):
        pick_devices(given)
    with pytest.raises(UsageError, match=says):
        AnoVL.from_pretrained("mini", device=given)


def test_a_detector_on_several_devices(golden_name):
    model = AnoVL.from_pretrained(golden_name, device=["cpu", "cpu"])
    (replica,) = model.replicas
    assert model.device == "cpu,cpu"
    weights, others = model.backbone.clip.state_dict(), replica.backbone.clip.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert weights["logit_scale"].data_ptr() != others["logit_scale"].data_ptr()
    assert AnoVL.from_pretrained(golden_name, device="cpu").replicas == ()
