"""The service under load: requests a second of many callers beside one at a time, waiting times, wrong answers, memory.

python benchmarks/serving.py --model mini --callers 32 --seconds 60 --requests 5000

Every caller asks for one picture a request; each answer is compared with the offline one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from anovl import AnoVL, Client, ExportedModel, ServiceError
from anovl.data.synthetic.layout import write_dataset
from anovl.engine.artefact import is_exported

CLASSES = ("metal nut", "leather")


@contextmanager
def service(model: str, arguments: list[str]) -> Iterator[tuple[str, int]]:
    """URL and process id of a running service."""
    command = [sys.executable, "-m", "anovl", "-q", "serve", "--model", model, "--port", "8123", "--queue-size", "64", *arguments]
    process = subprocess.Popen(command)  # noqa: S603
    client = Client("http://127.0.0.1:8123")
    while not client.ready():
        if process.poll() is not None:
            raise SystemExit("the service did not start")
        time.sleep(0.05)
    try:
        yield client.url, process.pid
    finally:
        process.terminate()
        print(f"exit code {process.wait(20)}")


def load(
    call: Callable[[int], float], callers: int, *, seconds: float = 1e9, requests: int = 10**9
) -> tuple[list[float], Counter[str]]:
    """Waiting times of answered requests, and counts of what else happened; it ends by time or number."""
    numbers, times, events = itertools.count(), list[float](), Counter[str]()
    until = time.perf_counter() + seconds

    def one() -> None:
        while time.perf_counter() < until and (number := next(numbers)) < requests:
            began = time.perf_counter()
            try:
                difference = call(number)
            except ServiceError as exc:
                events[f"status {exc.status}"] += 1
                time.sleep(exc.retry_after_s or 0)
                continue
            times.append(time.perf_counter() - began)
            events["wrong"] += difference > 1e-5

    threads = [threading.Thread(target=one) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, events


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=5000, help="of the run that watches the memory")
    parser.add_argument("serve", nargs="*", help="options of anovl serve, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), list(CLASSES), per_class=16, size=240, workers=2)
        offline = ExportedModel(options.model) if is_exported(options.model) else AnoVL.from_pretrained(options.model)
        classes = CLASSES if not isinstance(offline, ExportedModel) else offline.card.classes
        paths = sorted(Path(folder).glob("*/test/*/*.png"))
        asked = [(path.read_bytes(), classes[index % len(classes)]) for index, path in enumerate(paths)]
        expected = [offline.predict(data, name).pred_score for data, name in asked]
        del offline
        with service(options.model, options.serve) as (url, pid):
            client = Client(url)

            def call(number: int) -> float:
                which = number % len(asked)
                (got,) = client.predict(*asked[which])
                return abs(got.pred_score - expected[which])

            load(call, 2, requests=64)
            rates = {}
            for callers in (1, options.callers):
                times, events = load(call, callers, seconds=options.seconds if callers > 1 else min(20, options.seconds))
                rates[callers] = len(times) / (options.seconds if callers > 1 else min(20, options.seconds))
                p50, p99 = np.percentile(times, (50, 99)) * 1000
                print(
                    f"{callers} callers: {rates[callers]:.1f} requests a second, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
                    f"{events['wrong']} wrong, {json.dumps({name: n for name, n in events.items() if n and name != 'wrong'})}"
                )
            print(f"{options.callers} callers over one: {rates[options.callers] / rates[1]:.2f}")
            memory = [psutil.Process(pid).memory_info().rss / 2**20]
            for _ in range(5):
                load(call, options.callers, requests=options.requests // 5)
                memory.append(psutil.Process(pid).memory_info().rss / 2**20)
            print(f"memory over {options.requests} requests: {', '.join(f'{value:.0f}' for value in memory)} MB")


if __name__ == "__main__":
    main()
