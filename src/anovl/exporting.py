"""Exports a detector to one file, compares the file with torch, and measures what its precision costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from anovl.core.prompts import Wording
from anovl.data.images import load_image
from anovl.data.resizing import squash
from anovl.data.sources import iter_source
from anovl.data.synthetic import CLASSES, Sample, draw
from anovl.data.synthetic.layout import plan
from anovl.detection import DetectionJob
from anovl.detector import AnoVL
from anovl.engine.artefact import SUFFIXES, Card, ExportFormat, Precision
from anovl.engine.export import Graph, trace, write
from anovl.engine.sessions import open_session
from anovl.errors import AnovlError, OutputError, UsageError, require_extra
from anovl.files import TEMPORARY_PREFIX, replacing
from anovl.metrics import auroc
from anovl.results import FloatArray, Pixels

TOLERANCE = 1e-4  # of fp32 against torch
CALIBRATION_PICTURES = 32
CALIBRATION_SEED, HELD_OUT_SEED = 6001, 6002  # of drawn pictures; no seed of the drawer's plan draws one of the training
PER_CLASS = 20

_NEEDS: dict[ExportFormat, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),  # by way of ONNX; int8 is made by onnxruntime
    "torch-export": (),
}

Call = Callable[[Pixels, int], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Loss:
    """What an exported file's precision costs, on drawn pictures that no training and no calibration saw.

    Attributes:
        pictures: how many; 20 a class, half of them defective.
        image_auroc, pixel_auroc: (torch in fp32, the file), means over the classes; None where none of the classes can be
            drawn. Pixels are those of the map at the picture's size.
        image_difference, patch_difference: largest of the scores.
    """

    pictures: int
    image_auroc: tuple[float, float] | None
    pixel_auroc: tuple[float, float] | None
    image_difference: float
    patch_difference: float


@dataclass(frozen=True)
class Exported:
    """What `export` did.

    Attributes:
        path: of the file.
        size: bytes, of all files together.
        card: as it stands in the file.
        difference: largest one from torch over batches of 1 and 3 pictures, where it was checked.
        loss: of accuracy, where the precision is not fp32.
    """

    path: Path
    size: int
    card: Card
    difference: float | None
    loss: Loss | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        card = self.card.to_dict()
        kept = {key: card[key] for key in ("precision", "classes", "image_size", "seed", "bank", "model")}
        loss = None if self.loss is None else asdict(self.loss)
        return {"path": str(self.path), "bytes": self.size, **kept, "largest_difference": self.difference, "loss": loss}


def export(
    detector: AnoVL,
    path: Path,
    class_names: Sequence[str],
    *,
    form: ExportFormat = "onnx",
    wording: Wording | None = None,
    adapt: bool = False,
    seed: int = 0,
    precision: Precision = "fp32",
    calibration: Path | None = None,
    check: bool = False,
    overwrite: bool = False,
    versions: Mapping[str, str],
) -> Exported:
    """Write a detector with the prompts of some classes to one file, whole or not at all.

    Args:
        detector: on the CPU, in fp32.
        path: with the format's suffix: .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (torch.export).
        class_names: what the file can be asked for.
        form: the format.
        wording: as in `AnoVL.predict`.
        adapt: put the recipe's adaptation into the file; it then adapts to every picture.
        seed: of the adaptation.
        precision: of the weights. "int8" also rounds what they multiply, by ranges seen in the calibration pictures.
        calibration: pictures for int8, at most 32 are read; None draws some.
        check: compare with torch on drawn pictures.
        overwrite: replace a file that is there.
        versions: of the software, for the card.

    Raises:
        UsageError: a class twice, a suffix of another format, a file in the way, a detector that is not on the CPU in
            fp32, or has a profile of something else than is exported, no calibration picture, or as `anovl.engine.export`.
        ImageError: a calibration picture cannot be used.
        AnovlError: the check found a difference over 1e-4 in fp32; no file is kept.
        OutputError: the file cannot be written.
    """
    check_target(path, form, precision, overwrite=overwrite)
    if not class_names or len(set(class_names)) < len(class_names):
        raise UsageError(f"class names: expected one or several different ones, got {list(class_names)}")
    if detector.backbone.device.type != "cpu" or detector.backbone.dtype != torch.float32:
        raise UsageError(
            f"export: expected a model on the CPU in fp32, got {detector.backbone.device}, {detector.backbone.dtype}"
        )
    if detector.bank is not None and precision == "int8":
        raise UsageError("export: distances to good pictures are not quantised; take fp32 or fp16, or leave the bank out")
    if detector.profile is not None and precision != "fp32":
        raise UsageError(f"export: a profile of fp32 scores does not hold in {precision}; calibrate the exported file instead")
    if not detector.recipe.tiling.whole:
        raise UsageError("export: a file looks at whole images; leave tiles and crop out of the recipe")
    jobs = [detector.job(name, wording=wording, adapt=adapt, seed=seed) for name in class_names]
    card = Card(
        classes=tuple(class_names),
        method=detector.method_name,
        recipe=detector.method.recipe,
        words=(wording or detector.method.wording).to_dict(),
        seed=seed if adapt else None,
        image_size=detector.backbone.image_size,
        grid=detector.method.encoder.grid,
        threshold=detector.threshold,
        profile=detector.profile,
        bank=None if detector.bank is None else detector.bank.summary,
        score_range=detector.score_range,
        precision=precision,
        model=detector.backbone.describe(),
        versions=dict(versions),
    )
    graph = Graph(
        detector.method,
        [job.text for job in jobs],
        mean=detector.backbone.mean,
        std=detector.backbone.std,
        adaptation=detector.method.recipe.adaptation if adapt else None,
        seed=seed,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=path.parent) as folder:
            built = Path(folder) / path.name
            program = trace(graph, classes=len(class_names))
            write(program, built, card, form=form, pictures=_calibration(card, calibration))
            call = _call(built, several=len(class_names) > 1)
            difference = _difference(jobs, call) if check else None
            if difference is not None and precision == "fp32" and not difference <= TOLERANCE:
                raise AnovlError(f"export: the file differs from torch by {difference:.2g}, over {TOLERANCE:g}; it was not kept")
            loss = None if precision == "fp32" else accuracy_lost(detector, jobs, call)
            del call
            size = 0
            for file in sorted(Path(folder).iterdir()):  # OpenVINO's .bin before the .xml that names it
                size += file.stat().st_size
                with replacing(path.with_name(file.name)) as temporary:
                    file.replace(temporary)
    except AnovlError:
        raise
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror or exc})") from exc
    return Exported(path, size, card, difference, loss)


def check_target(path: Path, form: ExportFormat, precision: Precision, *, overwrite: bool) -> None:
    """Refuse what `export` would refuse whatever the model. Changes nothing.

    Raises:
        UsageError: a suffix of another format, a precision that the format has not, or a file in the way.
        MissingExtraError: onnx, onnxscript, onnxruntime or openvino is needed and not installed.
    """
    if path.suffix.lower() != SUFFIXES[form]:
        raise UsageError(f"{path}: expected a name that ends in {SUFFIXES[form]} for --format {form}")
    if form == "torch-export" and precision != "fp32":
        raise UsageError(f"export: torch-export is written in fp32 alone, got {precision}; take onnx or openvino")
    for module in _NEEDS[form]:
        require_extra(module, "openvino,onnx" if form == "openvino" else "onnx", f"export --format {form}")
    taken = [file for file in (path, path.with_suffix(".bin")) if file == path or form == "openvino"]
    for file in taken:
        if file.is_dir() or (file.exists() and not overwrite):
            raise UsageError(f"{file}: is there already; name another file, or replace it by --overwrite")


def _call(path: Path, *, several: bool) -> Call:
    """The written file as a function."""
    if path.suffix.lower() != SUFFIXES["torch-export"]:
        return open_session(path, device="cpu")
    module = torch.export.load(path).module()

    def call(images: Pixels, class_index: int) -> tuple[FloatArray, FloatArray]:
        inputs = (torch.from_numpy(images), torch.tensor(class_index)) if several else (torch.from_numpy(images),)
        scores, patches, _ = module(*inputs)
        return scores.numpy(), patches.numpy()

    return call


def _calibration(card: Card, folder: Path | None) -> Iterator[Pixels]:
    """Pictures at the input size, from a folder or drawn."""
    if folder is None:
        share = -(-CALIBRATION_PICTURES // len(_drawable(card.classes)))
        drawn = (_drawn(name, share, CALIBRATION_SEED) for name in _drawable(card.classes))
        pictures = (Image.fromarray(sample.image) for sample in itertools.chain.from_iterable(drawn))
    else:
        items = list(itertools.islice(iter_source(folder), CALIBRATION_PICTURES))
        if not items:
            raise UsageError(f"calibration: no image in {folder}")
        pictures = (load_image(item.image) for item in items)
    for picture in itertools.islice(pictures, CALIBRATION_PICTURES):
        yield np.asarray(squash(picture, card.image_size, card.recipe.interpolation))


def _drawable(classes: Sequence[str]) -> list[str]:
    """Those of the classes that can be drawn; where there is none, what no model of ours was trained on."""
    return [name for name in classes if name in CLASSES] or [name for name, info in CLASSES.items() if info.held_out]


def _drawn(name: str, count: int, seed: int) -> Iterator[Sample]:
    """Test pictures of a class, half of them defective."""
    return (draw(name, planned.seed(seed), defect=planned.defect) for planned in plan(name, per_class=count, seed=seed))


def _inputs(job: DetectionJob, samples: Sequence[Sample]) -> Pixels:
    """[B, H, W, 3] as torch and the file read them."""
    return np.stack([job.pixels(Image.fromarray(sample.image)) for sample in samples])


def _difference(jobs: Sequence[DetectionJob], call: Call) -> float:
    """Largest difference from torch over all scores of every class, batches of 1 and 3 drawn pictures."""
    samples = list(itertools.islice(_drawn(_drawable([job.class_name for job in jobs])[0], 6, HELD_OUT_SEED), 1, 4))
    pixels = _inputs(jobs[0], samples)
    found = []
    for index, job in enumerate(jobs):
        for batch in (1, 3):
            expected = job.score(torch.from_numpy(pixels[:batch]))
            pairs = zip(call(pixels[:batch], index), expected[:2], strict=True)
            found += [np.abs(got - values.numpy()).max() for got, values in pairs]
    return float(np.max(found))  # NaN stays NaN


def accuracy_lost(detector: AnoVL, jobs: Sequence[DetectionJob], call: Call) -> Loss:
    """Score held-out drawn pictures in torch and by an exported file.

    Args:
        detector: in fp32 on the CPU.
        jobs: of the detector, one a class of the file, in its order.
        call: the file as a function, such as an `anovl.engine.sessions.Session`.
    """
    by_name = {job.class_name: (index, job) for index, job in enumerate(jobs)}
    names = _drawable(list(by_name))
    differences: list[tuple[float, float]] = []
    areas: list[list[tuple[float, float]]] = []
    for name in names:
        index, job = by_name.get(name, (0, jobs[0]))
        samples = list(_drawn(name, PER_CLASS, HELD_OUT_SEED))
        scored: list[list[tuple[Any, Any]]] = [[], []]
        for start in range(0, len(samples), 4):
            pixels = _inputs(job, samples[start : start + 4])
            expected = job.score(torch.from_numpy(pixels))
            scored[0] += zip(expected.image_score.numpy(), expected.patch_scores.numpy(), strict=True)
            scored[1] += zip(*call(pixels, index), strict=True)
        (images, patches), (other_images, other_patches) = (
            [np.stack(values) for values in zip(*which, strict=True)] for which in scored
        )
        differences.append((np.abs(images - other_images).max(), np.abs(patches - other_patches).max()))
        labels = [sample.defect is not None for sample in samples]
        masks = np.stack([sample.mask for sample in samples])
        maps = [
            np.stack([detector.anomaly_map(grid, sample.mask.shape) for grid, sample in zip(grids, samples, strict=True)])
            for grids in (patches, other_patches)
        ]
        areas.append(
            [(auroc(scores, labels), auroc(values, masks)) for scores, values in zip((images, other_images), maps, strict=True)]
        )
    image, pixel = np.mean(areas, axis=0).T.tolist() if set(names) <= by_name.keys() else (None, None)
    image_difference, patch_difference = np.max(differences, axis=0).tolist()
    return Loss(PER_CLASS * len(names), image and tuple(image), pixel and tuple(pixel), image_difference, patch_difference)
