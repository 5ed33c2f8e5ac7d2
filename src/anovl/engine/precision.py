"""Smaller weights in an ONNX model: fp16 storage, or int8 weights with calibrated 8-bit activations."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anovl.engine.artefact import CLASS_INDEX, IMAGES
from anovl.errors import AnovlError
from anovl.results import Pixels

SMALLEST = 4096  # elements of a tensor that fp16 pays for; two prototypes are smaller, and scores hang on them
_FP16_MAX = 65504.0
_SCOPES = "pkg.torch.onnx.name_scopes"  # where torch.onnx says which module a node comes from


def halve(model: Any) -> None:
    """Store large fp32 weights of an ONNX model as fp16, in place; each is cast back to fp32 where it is read.

    Args:
        model: an onnx.ModelProto. Weights that fp16 cannot hold stay as they are.
    """
    import onnx

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < SMALLEST or np.abs(values).max() > _FP16_MAX:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.fp16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=onnx.TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def quantize(plain: Path, path: Path, pictures: Iterator[Pixels]) -> None:
    """Quantise the image tower: weights to int8 a channel, what they multiply to 8 bit by ranges seen in pictures.

    Everything else stays fp32: attention, norms, prototypes, scores, the adaptation.

    Args:
        plain: an .onnx of `anovl.engine.export.to_onnx`.
        path: where to write the result.
        pictures: each [H, W, 3] uint8 at the input size.

    Raises:
        AnovlError: onnxruntime cannot quantise the model.
    """
    import onnx
    from onnxruntime import quantization

    graph = onnx.load(plain).graph
    weights = {tensor.name for tensor in graph.initializer}
    nodes = [node.name for node in graph.node if _multiplies_weights(node, weights)]
    if not nodes:
        raise AnovlError("export: found no matrix product of the image tower to quantise; --dtype fp32")
    root = logging.getLogger()
    root.addFilter(_nothing)  # it gives advice on the root logger
    picks = CLASS_INDEX in {value.name for value in graph.input}
    try:
        quantization.quantize_static(
            plain,
            path,
            _reader(quantization.CalibrationDataReader, pictures, picks=picks),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    except AnovlError:  # of a picture
        raise
    except Exception as exc:
        raise AnovlError(f"export: onnxruntime cannot quantise this model ({type(exc).__name__}: {str(exc)[:300]})") from exc
    finally:
        root.removeFilter(_nothing)


def _multiplies_weights(node: Any, weights: set[str]) -> bool:
    """True for a product of the encoder with weights of its own."""
    if node.op_type not in ("MatMul", "Gemm", "Conv") or node.input[1] not in weights:
        return False
    return any(prop.key == _SCOPES and "'encoder" in prop.value for prop in node.metadata_props)


def _reader(base: Any, pictures: Iterator[Pixels], *, picks: bool) -> Any:
    """The iterator of inputs that onnxruntime wants."""

    class Reader(base):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            picture = next(pictures, None)
            if picture is None:
                return None
            return {IMAGES: picture[None]} | ({CLASS_INDEX: np.array(0)} if picks else {})

    return Reader()


def _nothing(_record: logging.LogRecord) -> bool:
    """A filter of a logger's own messages that lets none through."""
    return False
