"""The simulator of the capacity plan, against what queueing theory says."""

import pytest

pytest.importorskip("simpy")
from capacity_model import Step, Use, simulate


def step(slot, *uses) -> Step:
    return Step(slot, tuple(Use(*use) for use in uses))


def test_one_resource_works_at_its_service_time():
    flow = simulate([step("actor", ("gpu", 0.5))], {"actor": 2, "gpu": 2}, shards=200, window=8)
    assert flow.rate == pytest.approx(2 / 0.5, rel=0.02)
    assert flow.busy == pytest.approx({"actor": 1, "gpu": 1}, rel=0.02)


def test_a_wait_holds_the_slot_and_no_core():
    flow = simulate([step("cpu", ("", 3.0), ("core", 1.0))], {"cpu": 4, "core": 4}, shards=400, window=16)
    assert flow.rate == pytest.approx(1.0, rel=0.02)
    assert flow.busy["cpu"] == pytest.approx(1, rel=0.02)
    assert flow.busy["core"] == pytest.approx(0.25, rel=0.02)


def test_the_slowest_of_a_chain_sets_the_pace():
    steps = [step("cpu", ("", 1.0)), step("actor", ("", 2.0)), step("cpu", ("", 1.0))]
    flow = simulate(steps, {"cpu": 4, "actor": 3}, shards=600, window=20)
    assert flow.rate == pytest.approx(3 / 2, rel=0.02)
    assert flow.busiest[0] == "actor"
    assert flow.busy["cpu"] == pytest.approx(flow.rate * 2 / 4, rel=0.02)


def test_more_nodes_are_faster_until_what_they_share_binds():
    steps = [step("driver", ("", 0.1)), step("actor", ("", 2.0))]
    flows = [simulate(steps, {"driver": 1, "actor": nodes}, shards=800, window=4 * nodes) for nodes in (4, 8, 16, 32, 64)]
    assert [flow.rate for flow in flows] == pytest.approx([2, 4, 8, 10, 10], rel=0.03)
    assert [flow.busiest[0] for flow in flows] == ["actor"] * 3 + ["driver"] * 2


def test_littles_law():
    steps = [step("cpu", ("bucket", 0.3), ("", 1.0)), step("actor", ("", 0.7))]
    for window in (2, 5, 30):
        flow = simulate(steps, {"cpu": 6, "bucket": 1, "actor": 3}, shards=600, window=window)
        assert flow.in_flight == pytest.approx(flow.rate * flow.seconds, rel=0.02)
        assert flow.in_flight <= window + 1e-9


def test_a_full_slot_waits_for_what_is_full():
    flow = simulate([step("cpu", ("gets", 1.0))], {"gets": 1, "cpu": 4}, shards=200, window=8)
    assert flow.busiest == ["gets", "cpu"]
    assert flow.busy["cpu"] == pytest.approx(1, rel=0.02)


def test_a_run_is_the_same_each_time():
    steps = [step("cpu", ("core", 0.2), ("", 0.1)), step("actor", ("core", 0.3))]
    runs = [simulate(steps, {"cpu": 3, "actor": 2, "core": 4}, shards=100, window=9) for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_few_shards_are_too_few():
    with pytest.raises(ValueError, match="at least 4"):
        simulate([step("cpu", ("", 1.0))], {"cpu": 1}, shards=1, window=1)
