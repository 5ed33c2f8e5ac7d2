"""All pixel metrics of a simulated MVTec AD test set: figures, time and memory, beside scikit-learn and anomalib.

    python benchmarks/metrics.py [--maps 1725 --size 1024 --rival-maps 40 --rival-python PATH]

The maps are smooth, with noise that makes their values distinct; 73 % of the images have one to four defects. They
are made on the fly, outside the time measured. The rivals hold everything in memory, so they get the first maps
only, each in a process of its own, and are compared by the pixel; ours runs on that part too, and must agree with
them. scikit-learn gives the curves: roc_auc_score, precision_recall_curve for F1max, average_precision_score.
anomalib, from the environment of --rival-python, gives PRO.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Timed = dict[str, tuple[float, float]]  # what: seconds, value


def images(count: int, size: int) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Maps and masks [size, size], the same ones each time."""
    at = np.linspace(0, 14, size)
    spread = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(15))).astype(np.float32)  # bilinear, from 15 to size
    rows, columns = np.ogrid[:size, :size]
    for index in range(count):
        rng = np.random.default_rng(index)
        coarse = rng.random((15, 15), np.float32) * 0.4
        mask = np.zeros((size, size), bool)
        for _ in range(rng.integers(1, 5) if rng.random() < 0.73 else 0):
            (y, x), (height, width) = rng.random(2) * size, (0.01 + 0.09 * rng.random(2) ** 2) * size
            mask |= ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
            coarse[round(y / size * 14), round(x / size * 14)] += 0.5 * rng.random()
        yield spread @ coarse @ spread.T + 0.05 * rng.random((size, size), np.float32), mask


def clock(call: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and value."""
    began = time.perf_counter()
    value = float(call())
    return time.perf_counter() - began, value


def scikit_learn(maps: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]) -> Timed:
    """The curves by scikit-learn."""
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    scores, labels = maps.ravel(), masks.ravel()

    def f1_max() -> float:
        precision, recall, _ = precision_recall_curve(labels, scores)
        return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12)))

    return {
        "auroc": clock(lambda: roc_auc_score(labels, scores)),
        "f1_max": clock(f1_max),
        "ap": clock(lambda: average_precision_score(labels, scores)),
    }


def anomalib(maps: npt.NDArray[np.float32], masks: npt.NDArray[np.bool_]) -> Timed:
    """PRO by anomalib."""
    import torch

    torch.set_num_threads(1)
    beneath = importlib.import_module("anomalib.metrics.aupro")._AUPRO  # noqa: SLF001 - AUPRO itself takes anomalib's batches
    metric = beneath(fpr_limit=0.3)
    metric.update(torch.from_numpy(maps), torch.from_numpy(masks).int())
    return {"pro": clock(metric.compute)}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=1725)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rival-maps", type=int, default=40, help="as many as the rivals can hold")
    parser.add_argument("--rival-python", help="python of an environment with anomalib")
    parser.add_argument("--rival", choices=["scikit_learn", "anomalib"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rival:
        pairs = zip(*images(options.rival_maps, options.size), strict=True)
        timed = {"scikit_learn": scikit_learn, "anomalib": anomalib}[options.rival](*map(np.stack, pairs))
        print(json.dumps({"timed": timed, "peak": peak()}))
        return
    print(f"maps of {options.size} x {options.size} float32; the making of them is in no time below")
    area = options.size**2
    part, (_, update, compute) = ours(options.rival_maps, options.size)
    print(f"anovl, {options.rival_maps} maps: {(update + compute) / options.rival_maps / area * 1e9:.1f} ns a pixel")
    theirs = 0.0
    for name, python in (("scikit_learn", sys.executable), ("anomalib", options.rival_python)):
        if python is None:
            print(f"{name}: not measured, --rival-python names no environment that has it")
            continue
        for figure, (seconds, value) in rival(name, python, options).items():
            own = getattr(part, figure)
            each = seconds / options.rival_maps / area
            theirs += each
            print(f"  {figure:7}{each * 1e9:8.1f} ns a pixel   {value:.6f}, ours {own:.6f}, {abs(value - own):.0e} apart")
    figures, (making, update, compute) = ours(options.maps, options.size)
    pixels, seconds = options.maps * area, update + compute
    print(f"anovl, {options.maps} maps, {pixels:.3g} pixels: update {update:.1f} s, compute {compute:.1f} s")
    print("  " + ", ".join(f"{name} {getattr(figures, name):.6f}" for name in ("auroc", "f1_max", "ap", "pro", "threshold")))
    print(f"  the maps themselves were made in {making:.1f} s")
    print(f"  {pixels / seconds:.3g} pixels a second, {seconds / pixels * 1e9:.1f} ns a pixel, peak memory {peak() / 1e9:.2f} GB")
    print(f"rivals together / anovl, by the pixel: {theirs / (seconds / pixels):.1f}")


def ours(count: int, size: int) -> tuple[Any, list[float]]:
    """Figures of the first maps, and the seconds that the maps, their update and the figures took."""
    from anovl.metrics import PixelMetrics

    metrics, update, began = PixelMetrics(), 0.0, time.perf_counter()
    for anomaly_map, mask in images(count, size):
        start = time.perf_counter()
        metrics.update(anomaly_map, mask)
        update += time.perf_counter() - start
    ended = time.perf_counter()
    figures = metrics.compute()
    return figures, [ended - began - update, update, time.perf_counter() - ended]


def rival(name: str, python: str, options: argparse.Namespace) -> Timed:
    """What a rival says, from a process of its own."""
    command = [python, __file__, "--rival", name, "--rival-maps", str(options.rival_maps), "--size", str(options.size)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])  # noqa: S603
    print(f"{name}, {options.rival_maps} maps: peak memory {answer['peak'] / 1e9:.2f} GB")
    timed: Timed = answer["timed"]
    return timed


def peak() -> int:
    """Bytes of memory this process has taken at most (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
