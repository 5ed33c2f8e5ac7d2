"""A method with the prompts of its classes as one graph, written as ONNX, OpenVINO or torch.export.

The graph takes 8-bit pictures at the model's input size. Scaling, normalisation, prototypes and the closed-form
adaptation are inside; the antialiased squash is outside, since no operator of those formats gives Pillow's pixels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from anovl.config import Adaptation
from anovl.core.adapter import Adapter, Start, draw_start
from anovl.core.scoring import Scores, TextFeatures, anomaly_score, picture_score, smooth, to_image_size
from anovl.engine.artefact import CLASS_INDEX, IMAGES, KEY, OUTPUTS, Card, ExportFormat
from anovl.engine.precision import halve, quantize
from anovl.errors import AnovlError, UsageError
from anovl.methods.anovl import AnoVLMethod
from anovl.methods.base import Method
from anovl.results import Pixels

log = logging.getLogger(__name__)

OPSET = 20
ONNX_LIMIT = 2**31 - 2**26  # bytes of weights; protobuf ends at 2 GiB


class Graph(nn.Module):
    """What is exported.

    Args:
        method: "anovl" or one that differs from it in its settings only; a bank that it has goes into the graph.
        texts: features of each class, all with as many prompts.
        mean, std: of the checkpoint, per channel, on the [0, 1] scale.
        adaptation: None is training-free.
        seed: of the adaptation.

    Raises:
        UsageError: the method cannot be exported, not with these classes, or not with adaptation.
    """

    mean: Tensor
    std: Tensor
    prototypes: Tensor
    tokens: Tensor
    noise: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        method: Method,
        texts: Sequence[TextFeatures],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        adaptation: Adaptation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(method, AnoVLMethod):
            raise UsageError("export: expected the method anovl, clip or maskclip, or an ablation; the others run in torch alone")
        if len({text.tokens.shape for text in texts}) != 1:
            raise UsageError("export: the classes have different numbers of prompts; export them one by one")
        if adaptation is not None and method.all_views:
            raise UsageError("export: the recipe's 22 views and --adapt do not go together; take another recipe")
        self.method, self.adaptation = method, adaptation
        self.encoder = method.encoder
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.register_buffer("prototypes", torch.stack([text.prototypes for text in texts]))
        if adaptation is not None:
            rows, columns = method.encoder.grid
            start = draw_start(adaptation, texts[0], rows * columns, seed)
            self.register_buffer("tokens", torch.stack([text.tokens for text in texts]))
            self.register_buffer("noise", start.noise)
            # The softmax adapter starts at the class's own prompt tokens, the others at the same weights for all.
            self.register_buffer("weight", None if adaptation.adapter == "softmax" else start.weight)
            self.register_buffer("bias", start.bias)

    def forward(self, images: Tensor, class_index: Tensor | int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Score pictures.

        Args:
            images: [B, H, W, 3] uint8, RGB, at the input size.
            class_index: which class, from 0; one for the whole batch.

        Returns:
            image scores [B], patch scores [B, h, w], and the map at the input size [B, H, W], smoothed and up-sampled
            as the recipe says; all in [0, 1].
        """
        pixel_values = ((images.float() / 255.0 - self.mean) / self.std).permute(0, 3, 1, 2)
        recipe = self.method.recipe
        if self.adaptation is None:
            text = TextFeatures(self.prototypes[class_index], self.prototypes[class_index])
            image_score, patch_scores = self.method.score(pixel_values, text)[:2]
        else:
            text = TextFeatures(self.prototypes[class_index], self.tokens[class_index])
            start = Start(text.tokens if self.weight is None else self.weight, self.bias, self.noise)
            class_token, local_tokens, deep = self.method.tokens(pixel_values, self.method.bank_layers)
            similarity = Adapter(text, self.adaptation, start).run(local_tokens).similarity
            patch_scores = torch.sigmoid(self.method.logit_scale * similarity).unflatten(1, self.encoder.grid)
            class_score = anomaly_score(class_token, text.prototypes, self.method.logit_scale)
            image_score = picture_score(recipe.image_score, class_score, patch_scores)
            scores = self.method.beside_bank(Scores(image_score, patch_scores), (local_tokens, *deep))
            image_score, patch_scores = scores[:2]
        grid = smooth(patch_scores) if recipe.smoothing else patch_scores
        anomaly_map = to_image_size(grid, self.encoder.image_size, align_corners=recipe.align_corners)
        return image_score, patch_scores, anomaly_map


def trace(graph: Graph, *, classes: int) -> torch.export.ExportedProgram:
    """The graph as a program with any batch size; it has an input for the class where there are several.

    Raises:
        AnovlError: torch cannot trace it.
    """
    graph = graph.eval()
    images = torch.zeros(2, *graph.encoder.image_size, 3, dtype=torch.uint8)
    inputs = (images, torch.tensor(0)) if classes > 1 else (images,)
    shapes: dict[str, Any] = {IMAGES: {0: torch.export.Dim("batch", min=1, max=4096)}}
    if classes > 1:
        shapes[CLASS_INDEX] = None
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(graph, inputs, dynamic_shapes=shapes)
    except Exception as exc:
        raise AnovlError(f"export: torch cannot trace this model ({type(exc).__name__}: {str(exc)[:300]})") from exc


def write(
    program: torch.export.ExportedProgram, path: Path, card: Card, *, form: ExportFormat, pictures: Iterable[Pixels]
) -> None:
    """Write a program in a format, with its card, in the card's precision.

    Args:
        program: of `trace`.
        path: with the format's suffix, in a folder of its own; OpenVINO's .bin comes beside it.
        card: goes into the file. Of a .pt2, ``torch.export.load(path, extra_files={"anovl": ""})`` gives it back.
        form: the format.
        pictures: [H, W, 3] uint8 at the input size, to calibrate int8 with.

    Raises:
        UsageError: the weights are over what the format holds.
        AnovlError: the model cannot be converted or quantised.
    """
    if form == "torch-export":
        torch.export.save(program, path, extra_files={KEY: card.to_json()})
        return
    with TemporaryDirectory(dir=path.parent) as folder:
        model = Path(folder) / "fp32.onnx"
        _to_onnx(program, model)
        if card.precision == "int8":
            quantize(model, model.with_name("int8.onnx"), iter(pictures))
            model = model.with_name("int8.onnx")
        finish = _finish_onnx if form == "onnx" else _finish_openvino
        finish(model, path, card)


def _to_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a program as an .onnx file without metadata."""
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > ONNX_LIMIT:
        raise UsageError(
            f"export: an ONNX model holds 2 GB of weights at most, these are {size / 1e9:.1f}; --format torch-export"
        )
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    options: dict[str, Any] = {"input_names": names, "output_names": list(OUTPUTS), "opset_version": OPSET, "dynamo": True}
    try:
        with _quiet():
            converted: Any = torch.onnx.export(program, **options, optimize=False, verbose=False)
            _fold(converted.model)
    except Exception as exc:
        raise AnovlError(f"export: torch.onnx cannot convert this model ({type(exc).__name__}: {str(exc)[:300]})") from exc
    converted.save(str(path))


def _fold(model: Any) -> None:
    """Compute in an onnx_ir.Model, in place, whatever depends on weights alone.

    torch's own choice (``optimize=True``) does not fold large weights, and its rewriting takes constants within 1e-8 of 0
    for 0 and within 1e-5 of 1 for 1, which loses the epsilon and the weight decay of the adaptation's AdamW.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer

    common.InlinePass()(model)
    optimizer.fold_constants_ir(model, input_size_limit=ONNX_LIMIT, output_size_limit=ONNX_LIMIT)
    for make in (
        common.RemoveUnusedNodesPass,
        common.RemoveUnusedOpsetsPass,
        common.DeduplicateInitializersPass,
        common.CommonSubexpressionEliminationPass,
        common.NameFixPass,
    ):
        make()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _finish_onnx(plain: Path, path: Path, card: Card) -> None:
    import onnx

    model = onnx.load(plain)
    if card.precision == "fp16":
        halve(model)
    onnx.helper.set_model_props(model, {KEY: card.to_json()})
    model.producer_name, model.producer_version = "anovl", card.versions["anovl"]
    onnx.save(model, path)


def _finish_openvino(plain: Path, path: Path, card: Card) -> None:
    import openvino as ov

    try:
        model = ov.convert_model(plain)
    except Exception as exc:
        raise AnovlError(f"export: OpenVINO cannot convert this model ({type(exc).__name__}: {str(exc)[:300]})") from exc
    model.set_rt_info(card.to_json(), [KEY])
    ov.save_model(model, path, compress_to_fp16=card.precision == "fp16")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporters print and warn about their own insides off the user's terminal."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
