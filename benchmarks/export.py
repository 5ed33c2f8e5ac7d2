"""Exported files against torch eager: time and largest difference, and with mini the AUROC that each costs.

    python benchmarks/export.py [--arch ViT-B-16-plus-240] [--batch 1 8] [--threads 2] [--rounds 7] [--adapt]

Random weights, 8-bit pictures in, scores out. The rivals take turns within each round; printed are medians of each one's
time and of its ratio to torch eager in the same round. The AUROC is that of the embedded model on drawn pictures that no
training and no calibration saw, 20 of each of the named classes.

The machine must be idle: a rival with threads of its own loses more to another program than one without.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import random_model

from anovl import __version__
from anovl.detector import AnoVL
from anovl.engine.artefact import ExportFormat, Precision
from anovl.engine.sessions import Session, open_session
from anovl.exporting import accuracy_lost, export

PAUSE = 0.5  # seconds before each turn: the threads of the rival before wait for work by spinning, and take the cores
RIVALS: dict[str, tuple[str, Precision, str]] = {  # file, precision of the file, what it computes in
    "onnxruntime fp32": ("fp32.onnx", "fp32", "auto"),
    "OpenVINO fp32": ("fp32.xml", "fp32", "fp32"),
    "OpenVINO bf16": ("fp32.xml", "fp32", "bf16"),
    "onnxruntime int8": ("int8.onnx", "int8", "auto"),
    "OpenVINO int8": ("int8.xml", "int8", "fp32"),
    "OpenVINO int8, rest bf16": ("int8.xml", "int8", "bf16"),
}


def sessions(detector: AnoVL, classes: list[str], folder: Path, threads: int, *, adapt: bool) -> dict[str, Session]:
    """Every rival's file, written and loaded."""
    loaded = {}
    for name, (file, precision, dtype) in RIVALS.items():
        path = folder / file
        if not path.exists():
            form: ExportFormat = "onnx" if path.suffix == ".onnx" else "openvino"
            export(detector, path, classes, form=form, precision=precision, adapt=adapt, versions={"anovl": __version__})
        loaded[name] = open_session(path, dtype=dtype, threads=threads)
    return loaded


@torch.inference_mode()
def race(detector: AnoVL, rivals: dict[str, Session], class_name: str, batch: int, rounds: int, *, adapt: bool) -> None:
    """Time torch eager and the rivals in turns, and print a line each."""
    job = detector.job(class_name, adapt=adapt)
    height, width = detector.backbone.image_size
    images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)

    def eager() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return job.score(torch.from_numpy(images)).patch_scores.numpy()

    times: dict[str, list[float]] = {name: [] for name in ("torch eager", *rivals)}
    expected, worst = eager(), dict.fromkeys(times, 0.0)
    for number in range(rounds + 1):
        for name, spent in times.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            patches = eager() if name == "torch eager" else rivals[name](images, 0)[1]
            if number:  # the first warms up
                spent.append(time.perf_counter() - began)
            worst[name] = float(np.abs(patches - expected).max())
    base = times["torch eager"]
    for name, spent in times.items():
        ratio = statistics.median(reference / own for own, reference in zip(spent, base, strict=True))
        ms = statistics.median(spent) / batch * 1000
        print(f"batch {batch}  {name:26} {ms:8.1f} ms/image   {ratio:5.2f} x as fast   largest difference {worst[name]:.1e}")


def main() -> None:
    """Parse, export, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arch", default="ViT-B-16-plus-240")
    options.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--adapt", action="store_true", help="with the adaptation inside")
    options.add_argument("--classes", nargs="+", default=["metal nut", "leather", "bearing", "marble"])
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    with TemporaryDirectory() as folder:
        detector = AnoVL(random_model(args.arch)[1], cache_dir=folder)
        rivals = sessions(detector, args.classes[:1], Path(folder), args.threads, adapt=args.adapt)
        print(f"{args.arch}, random weights, {args.threads} threads, median of {args.rounds} rounds, adaptation: {args.adapt}")
        for batch in args.batch:
            race(detector, rivals, args.classes[0], batch, args.rounds, adapt=args.adapt)
    with TemporaryDirectory() as folder:
        detector = AnoVL.from_pretrained("mini")
        rivals = sessions(detector, args.classes, Path(folder), args.threads, adapt=args.adapt)
        jobs = [detector.job(name, adapt=args.adapt) for name in args.classes]
        for name, session in rivals.items():
            lost = accuracy_lost(detector, jobs, session)
            if lost.image_auroc is None or lost.pixel_auroc is None:
                options.error("--classes: name classes of `anovl synth` alone")
            (image, image_after), (pixel, pixel_after) = lost.image_auroc, lost.pixel_auroc
            print(
                f"mini  {name:26} image AUROC {image:.4f} -> {image_after:.4f}   pixel AUROC {pixel:.4f} -> {pixel_after:.4f}   "
                f"largest difference: image {lost.image_difference:.1e}, patch {lost.patch_difference:.1e}"
            )


if __name__ == "__main__":
    main()
