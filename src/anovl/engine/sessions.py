"""onnxruntime and OpenVINO behind one call: 8-bit pictures in, scores out. No torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from anovl.engine.artefact import CLASS_INDEX, IMAGES, KEY, OUTPUTS
from anovl.errors import CheckpointError, OutOfMemoryError, UsageError, require_extra, suggest
from anovl.results import FloatArray, Pixels

log = logging.getLogger(__name__)

_SCORES = list(OUTPUTS[:2])  # the map at input size is for others; ours is made at the image's own size


class Session(Protocol):
    """A loaded file.

    Attributes:
        device: where it computes.
        metadata: the text that the export left in the file, None where there is none.
    """

    device: str
    metadata: str | None

    def __call__(self, images: Pixels, class_index: int) -> tuple[FloatArray, FloatArray]:
        """[B, H, W, 3] at the input size -> image scores [B] and patch scores [B, h, w]."""


class OnnxSession:
    """An .onnx file in onnxruntime; see `open_session`."""

    def __init__(self, path: Path, *, device: str, dtype: str, threads: int | None) -> None:
        ort = cast("Any", require_extra("onnxruntime", "onnx", f"running {path.name}"))
        if dtype not in ("auto", "fp32"):
            raise UsageError(f"dtype: onnxruntime computes as the file says, got {dtype!r}; leave it out")
        providers = ["CPUExecutionProvider"]
        on_gpu = device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in ort.get_available_providers())
        if on_gpu:
            if "CUDAExecutionProvider" not in ort.get_available_providers():
                raise UsageError("device cuda: this onnxruntime has no CUDA; install onnxruntime-gpu instead of onnxruntime")
            providers.insert(0, "CUDAExecutionProvider")
        elif device not in ("auto", "cpu"):
            raise UsageError(suggest("device of onnxruntime", device, ("auto", "cpu", "cuda")))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as exc:  # its own tree of errors, none of which is public
            raise CheckpointError(f"{path}: onnxruntime cannot load it ({_first_line(exc)})") from exc
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        self.metadata = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self._picks = CLASS_INDEX in {value.name for value in self._session.get_inputs()}

    def __call__(self, images: Pixels, class_index: int) -> tuple[FloatArray, FloatArray]:
        """As the protocol says."""
        feed: dict[str, Any] = {IMAGES: images}
        if self._picks:
            feed[CLASS_INDEX] = np.array(class_index)
        try:
            scores, patches = self._session.run(_SCORES, feed)
        except Exception as exc:
            raise _failure(exc) from exc
        return scores, patches


class OpenVinoSession:
    """An OpenVINO .xml with its .bin; see `open_session`."""

    def __init__(self, path: Path, *, device: str, dtype: str, threads: int | None) -> None:
        ov = cast("Any", require_extra("openvino", "openvino", f"running {path.name}"))
        hints = {"auto": "f32", "fp32": "f32", "bf16": "bf16"}  # left alone, it computes in bf16 where the CPU can
        if dtype not in hints:
            raise UsageError(suggest("dtype of OpenVINO", dtype, hints))
        core = ov.Core()
        target = "CPU" if device == "auto" else device.upper()
        if target not in core.available_devices:
            raise UsageError(suggest("device of OpenVINO", device, ["auto", *(name.lower() for name in core.available_devices)]))
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hints[dtype], "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(path)
            self.metadata = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self._picks = CLASS_INDEX in {value.any_name for value in model.inputs}
            self._model = core.compile_model(model, target, settings)
        except Exception as exc:
            raise CheckpointError(f"{path}: OpenVINO cannot load it ({_first_line(exc)})") from exc
        self.device = target.lower()

    def __call__(self, images: Pixels, class_index: int) -> tuple[FloatArray, FloatArray]:
        """As the protocol says."""
        feed: dict[str, Any] = {IMAGES: images}
        if self._picks:
            feed[CLASS_INDEX] = np.array(class_index)
        try:
            outputs = self._model(feed)
        except Exception as exc:
            raise _failure(exc) from exc
        scores, patches = (np.array(outputs[name]) for name in _SCORES)
        return scores, patches


_SESSIONS: dict[str, type[OnnxSession | OpenVinoSession]] = {".onnx": OnnxSession, ".xml": OpenVinoSession}


def open_session(path: Path, *, device: str = "auto", dtype: str = "auto", threads: int | None = None) -> Session:
    """Load a file by its suffix: .onnx into onnxruntime, .xml into OpenVINO.

    Args:
        path: the file.
        device: "auto", "cpu"; "cuda" (onnxruntime), "gpu" (OpenVINO).
        dtype: "auto" or "fp32"; "bf16" (OpenVINO) is faster where the CPU has it, and less exact.
        threads: None is what the library chooses.

    Raises:
        UsageError: another suffix, a device or dtype that is none, threads below 1.
        MissingExtraError: the library is not installed.
        CheckpointError: the file is missing or cannot be loaded.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    if path.suffix.lower() not in _SESSIONS:
        hint = "; a .pt2 is for torch.export.load" if path.suffix.lower() == ".pt2" else ""
        raise UsageError(f"{path}: expected an exported .onnx or OpenVINO's .xml{hint}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return _SESSIONS[path.suffix.lower()](path, device=device, dtype=dtype, threads=threads)


def _failure(error: Exception) -> Exception:
    """What to raise for an error of a library's run."""
    text = str(error).lower()
    if "alloc" in text or "out of memory" in text:
        return OutOfMemoryError("one image alone does not fit into memory; export a smaller model")
    return CheckpointError(f"the exported model cannot run ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
