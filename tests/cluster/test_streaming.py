"""On a machine whose actors leave one CPU, results come while others are still to be decoded."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.data")
import ray

from anovl.cluster.run import Pool, execute
from anovl.cluster.shards import row

pytestmark = pytest.mark.slow


def test_shards_are_written_before_all_are_decoded(tmp_path):
    def decode(shard):
        time.sleep(0.3)
        (tmp_path / f"decoded-{shard['shard']}").touch()
        return shard

    def write(shard):
        (tmp_path / f"written-{shard['shard']}").touch()
        return {"shard": shard["shard"]}

    def bind(task):
        return SimpleNamespace()

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        done = list(execute([row(n, []) for n in range(40)], decode=decode, bind=bind, pool=Pool(), write=write))
    finally:
        ray.shutdown()
    assert len(done) == 40
    decoded, written = ([path.stat().st_mtime for path in tmp_path.glob(f"{what}-*")] for what in ("decoded", "written"))
    assert sum(time < max(decoded) for time in written) >= 10
