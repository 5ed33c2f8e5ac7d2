"""Test-time adaptation, Eq. (9)-(11): a small adapter fitted to each image, a batch of images at once, no autograd.

Every adapter here reads tokens X [M, C] through weights W [K, C] and adds rows of V [K, C] to a residual R [M, C]:
``x' = R + H V`` with ``H = f(X W^T + b)``. Of an adapted token only the cosine with the prototypes counts, that is
its product with their difference d and its length::

    x' d   = R d + H (V d)
    |x'|^2 = |R|^2 + H (R V^T) + H (x' V^T)        where x' V^T = R V^T + H (V V^T)

R, V and d stay as they are from step to step. Where the prompts are fewer than twice the width, x' is never made: a step
takes three large products an input, X W^T, H (V V^T) and the gradient of W, where the plain chain takes four.

Everything is closed form and tensor in, tensor out: it runs under inference mode, torch.compile and torch.export.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from anovl.config import ADAPTATION_MEMORY, CPU_ADAPTATION_MEMORY, Adaptation
from anovl.core.products import matmul
from anovl.core.scoring import TextFeatures
from anovl.errors import UsageError

BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's usual ones
TINY = 1e-24  # least squared length of an adapted token


class Start(NamedTuple):
    """What the adaptation begins with, the same for every image; fp32.

    Attributes:
        weight: [K, C].
        bias: [K], or None for the softmax adapter.
        noise: [steps, M, C], the noise of each step, mean and deviation already applied.
    """

    weight: Tensor
    bias: Tensor | None
    noise: Tensor

    def to(self, device: torch.device) -> Start:
        """The same on a device."""
        return Start(self.weight.to(device), None if self.bias is None else self.bias.to(device), self.noise.to(device))


class Adapted(NamedTuple):
    """What comes out for a batch.

    Attributes:
        similarity: [B, M], cosine with the abnormal prototype minus cosine with the normal one, after the last step and
            limited; the tokens' own where an image's adaptation gave values that are not finite.
        losses: [B, steps], before each step.
        failed: [B] bool, images whose adaptation gave values that are not finite.
    """

    similarity: Tensor
    losses: Tensor
    failed: Tensor


def check_seeds(seed: int | Sequence[int]) -> tuple[int, ...]:
    """One seed or several as a tuple.

    Raises:
        UsageError: one is no whole number from 0 to 2**63 - 1, or two are the same, or there is none.
    """
    seeds = tuple(seed) if isinstance(seed, Sequence) else (seed,)
    for one in seeds:
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < 2**63:
            raise UsageError(f"seed: expected a whole number from 0 to 2**63 - 1, got {one!r}")
    if not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seed: expected one whole number or several different ones, got {seed!r}")
    return seeds


def draw_start(settings: Adaptation, text: TextFeatures, patches: int, seed: int) -> Start:
    """Initial weights and noise from the seed alone.

    Softmax: W is the prompt tokens (Eq. 9). Others: uniform within 1 / sqrt(C), as torch draws a Linear, or the identity.

    Args:
        settings: which adapter, how many steps, what noise.
        text: of the class.
        patches: M.
        seed: a whole number from 0 to 2**63 - 1.

    Raises:
        UsageError: the seed is none.
    """
    check_seeds(seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = text.tokens.float()
    rows, width = tokens.shape
    weight, bias = tokens, None
    if settings.adapter != "softmax":
        rows = width if settings.adapter == "linear" else rows
        bound = 0.0 if settings.identity_start else width**-0.5
        weight = torch.empty(rows, width).uniform_(-bound, bound, generator=generator).to(tokens.device)
        bias = torch.empty(rows).uniform_(-bound, bound, generator=generator).to(tokens.device)
        if settings.identity_start and settings.adapter == "linear":
            weight += torch.eye(width, device=weight.device)
    noise = torch.empty(settings.steps, patches, width)
    noise.normal_(settings.noise_mean, settings.noise_std, generator=generator)
    return Start(weight, bias, noise.to(tokens.device))


class _Inputs(NamedTuple):
    """Tokens as the adapter sees them: X [B, M, C]; R V^T [B, M, K]; R d and |R|^2, [B, M]."""

    x: Tensor
    overlap: Tensor
    along: Tensor
    square: Tensor


class _Images(NamedTuple):
    """What does not change from step to step: clean tokens; R [B, M, C]; TFA's similarity and score of Eq. (2), [B, M]."""

    clean: _Inputs
    residual: Tensor
    own: Tensor
    pseudo_label: Tensor


class Adapter:
    """The adaptation for the images of one class: what is the same for all of them is made once.

    Args:
        text: prompt tokens [2 N, C] and prototypes [2, C] of the class.
        settings: of the adaptation.
        start: initial weights and noise; see `draw_start`.
    """

    def __init__(self, text: TextFeatures, settings: Adaptation, start: Start) -> None:
        self.settings, self.start = settings, start
        tokens, prototypes = (features.to(start.weight.dtype) for features in (text.tokens, text.prototypes))
        self.value = {"softmax": tokens, "tanh": tokens / 2, "linear": None}[settings.adapter]  # None: half the unit matrix
        self.direction = prototypes[1] - prototypes[0]  # d, [C]
        self.value_direction = self._times_value_transposed(self.direction)  # V d, [K]
        rows, width = tokens.shape
        self.gram = self.value @ self.value.T if self.value is not None and rows < 2 * width else None  # V V^T, [K, K]
        self.noise_overlap = self._times_value_transposed(start.noise)  # [steps, M, K]
        self.noise_along = start.noise @ self.direction  # [steps, M]
        self.noise_square = start.noise.square().sum(dim=-1)

    def image_bytes(self) -> int:
        """About the memory that one image takes while it adapts: weights, moments, gradient, and rows of H and the like."""
        (rows, width), patches = self.start.weight.shape, self.start.noise.shape[1]
        patches *= 2 if self.settings.noise_at == "input" else 1
        return 4 * (4 * rows * width + patches * (6 * rows + 3 * width))

    def run(self, tokens: Tensor) -> Adapted:
        """Adapt a batch; each image gets what it would get alone.

        Args:
            tokens: local tokens [B, M, C], not normalised.

        Raises:
            UsageError: M or C differ from those of the start.
        """
        images = self._images(self._checked(tokens))
        weight, bias, losses = self._fit(images)
        adapted = self._adapted(images, weight, bias) @ self.direction
        similarity = images.own + self._limited(adapted - images.own, images.own)
        failed = ~similarity.isfinite().all(dim=1)
        return Adapted(torch.where(failed[:, None], images.own, similarity), losses, failed)

    def tokens(self, tokens: Tensor) -> Tensor:
        """Adapted tokens P' of Eq. (9), [B, M, C], of unit length, as `run` scores them before any limit."""
        images = self._images(self._checked(tokens))
        weight, bias, _ = self._fit(images)
        return self._adapted(images, weight, bias)

    def _checked(self, tokens: Tensor) -> Tensor:
        expected = self.start.noise.shape[1:]
        if tokens.ndim != 3 or tokens.shape[1:] != expected:
            raise UsageError(f"tokens: expected [B, {expected[0]}, {expected[1]}], got {list(tokens.shape)}")
        return tokens.to(self.start.weight.dtype)

    def _adapted(self, images: _Images, weight: Tensor, bias: Tensor | None) -> Tensor:
        hidden = self._activate(self._logits(images.clean.x, weight, bias))
        return F.normalize(images.residual + self._times_value(hidden), dim=-1)

    def _fit(self, images: _Images) -> tuple[Tensor, Tensor | None, Tensor]:
        """W [B, K, C] and b [B, K] after the last step, as they start where there is none; losses [B, steps]."""
        weight = _AdamW(self.start.weight, self.settings)
        bias = None if self.start.bias is None else _AdamW(self.start.bias, self.settings)
        losses = []
        for step in range(self.settings.steps):
            loss, by_weight, by_bias = self._gradient(images, weight.value, None if bias is None else bias.value, step)
            losses.append(loss)
            weight.descend(by_weight)
            if bias is not None:
                bias.descend(by_bias)
        every = torch.stack(losses, dim=1) if losses else images.own.new_empty(images.own.shape[0], 0)
        return weight.value, None if bias is None else bias.value, every

    def _limited(self, change: Tensor, own: Tensor) -> Tensor:
        """The change of the cosines [B, M], scaled down to the limit."""
        if self.settings.limit is None:
            return change
        spread, most = (values.std(dim=1, keepdim=True, correction=0) for values in (change, own))
        return change * (self.settings.limit * most / spread.clamp(min=TINY)).clamp(max=1.0)

    def _times_value(self, hidden: Tensor) -> Tensor:
        """H V, [..., K] -> [..., C]."""
        return hidden / 2 if self.value is None else matmul(hidden, self.value)

    def _times_value_transposed(self, tokens: Tensor) -> Tensor:
        """Tokens times V^T, [..., C] -> [..., K]."""
        return tokens / 2 if self.value is None else matmul(tokens, self.value.T)

    def _images(self, tokens: Tensor) -> _Images:
        """What the steps need of the tokens [B, M, C]."""
        unit = F.normalize(tokens, dim=-1)
        own = unit @ self.direction
        x = tokens if self.settings.adapter == "linear" else unit
        residual = unit if self.settings.adapter == "softmax" else tokens / 2
        clean = _Inputs(x, self._times_value_transposed(residual), residual @ self.direction, residual.square().sum(dim=-1))
        return _Images(clean, residual, own, torch.sigmoid(own / self.settings.loss_temperature))

    def _gradient(self, images: _Images, weight: Tensor, bias: Tensor | None, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The loss of each image, [B], and its gradients by W and b, [B, K, C] and [B, K]."""
        inputs = images.clean if self.settings.noise_at == "output" else self._with_noise(images, step)
        same = weight is self.value and inputs is images.clean  # W = V and X = R: the product is there already
        logits = inputs.overlap if same else self._logits(inputs.x, weight, bias)
        loss, slope = self._objective(images, inputs, self._activate(logits), step)
        return loss, matmul(slope.mT, inputs.x), slope.sum(dim=1)

    def _with_noise(self, images: _Images, step: int) -> _Inputs:
        """The clean tokens, then the same with noise, [B, 2 M, ...]; products with V and d are linear in the noise.

        The noise comes on unit tokens where the adapter keeps unit tokens (softmax), and R is made unit again.
        """
        clean, residual = images.clean, images.residual
        noise, overlap, along = self.start.noise[step], self.noise_overlap[step], self.noise_along[step]
        if self.settings.adapter == "softmax":
            length = (residual + noise).norm(dim=-1, keepdim=True).clamp(min=TINY**0.5)
            x = residual = (residual + noise) / length
            overlap, along = (clean.overlap + overlap) / length, (clean.along + along) / length[..., 0]
        else:
            residual = residual + noise / 2
            x = 2 * residual if self.settings.adapter == "linear" else F.normalize(residual, dim=-1)
            overlap, along = clean.overlap + overlap / 2, clean.along + along / 2
        noisy = _Inputs(x, overlap, along, residual.square().sum(dim=-1))
        return _Inputs(*(torch.cat(pair, dim=1) for pair in zip(clean, noisy, strict=True)))

    def _logits(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """X W^T + b, [B, M, K]."""
        logits = matmul(x, weight.mT)
        return logits if bias is None else logits + bias.unsqueeze(-2)

    def _activate(self, logits: Tensor) -> Tensor:
        """H."""
        if self.settings.adapter == "softmax":
            return torch.softmax(logits / self.settings.temperature, dim=-1)
        return torch.tanh(logits) if self.settings.adapter == "tanh" else logits

    def _objective(self, images: _Images, inputs: _Inputs, hidden: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """The loss of each image before a step, [B], and its gradient by X W^T + b, [B, M or 2 M, K]."""
        settings, patches = self.settings, images.own.shape[1]
        through = self._times_value_transposed(self._times_value(hidden)) if self.gram is None else matmul(hidden, self.gram)
        pull = inputs.overlap + through  # x' V^T
        along = inputs.along + hidden @ self.value_direction
        square = inputs.square + (hidden * (inputs.overlap + pull)).sum(dim=-1)
        if settings.noise_at == "output":
            overlap = self.noise_overlap[step]
            cross = (images.residual * self.start.noise[step]).sum(dim=-1) + (hidden * overlap).sum(dim=-1)  # x' delta
            along = torch.cat([along, along + self.noise_along[step]], dim=1)
            square = torch.cat([square, square + 2 * cross + self.noise_square[step]], dim=1)
        length = square.clamp(min=TINY).sqrt()
        logit = along / (length * settings.loss_temperature)  # S_AL = sigmoid(logit)
        loss, by_logit = self._loss(images, *logit.split(patches, dim=1))
        by_along = by_logit / (length * settings.loss_temperature)
        twice_by_square = -by_logit * logit / length.square()  # d|x'|^2 = 2 x' V^T dH
        if settings.noise_at == "output":  # both depend on the same x'
            rest = twice_by_square[:, patches:, None] * overlap
            by_along, twice_by_square = (sum(half.split(patches, dim=1)) for half in (by_along, twice_by_square))
            slope = torch.addcmul(rest, twice_by_square[..., None], pull)
        else:
            slope = twice_by_square[..., None] * pull
        slope = torch.addcmul(slope, by_along[..., None], self.value_direction)
        if settings.adapter == "softmax":
            slope = hidden * (slope - (hidden * slope).sum(dim=-1, keepdim=True)) / settings.temperature
        elif settings.adapter == "tanh":
            slope = slope * (1 - hidden.square())
        return loss, slope

    def _loss(self, images: _Images, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """From the logits of S_AL [B, M], twice: the loss [B] and its gradient by both, [B, 2 M].

        Eq. (10), and Eq. (11) or the entropy of the clean prediction.
        """
        half, score = self.settings.noise_weight / 2, torch.sigmoid(clean)
        loss = half * (F.softplus(clean) + F.softplus(-noisy))
        by_clean, by_noisy = half * score, -half * torch.sigmoid(-noisy)
        if self.settings.target == "pseudo_label":
            loss = loss + images.pseudo_label * F.softplus(-clean)
            by_clean = by_clean - images.pseudo_label * (1 - score)
        elif self.settings.target == "entropy":
            loss = loss + F.softplus(clean) - clean * score
            by_clean = by_clean - clean * score * (1 - score)
        return loss.mean(dim=1), torch.cat([by_clean, by_noisy], dim=1) / clean.shape[1]


class _AdamW:
    """Parameters of a batch of images and their moments (Loshchilov and Hutter 2019); all images start from one value."""

    def __init__(self, value: Tensor, settings: Adaptation) -> None:
        self.value, self.settings, self.steps = value, settings, 0
        self.first = self.second = value.new_zeros(())

    def descend(self, gradient: Tensor) -> None:
        """One step; the gradient is [B, *value]."""
        (beta1, beta2), rate = BETAS, self.settings.learning_rate
        self.steps += 1
        if self.steps == 1:
            self.first, self.second = gradient * (1 - beta1), gradient.square() * (1 - beta2)
        else:
            self.first.lerp_(gradient, 1 - beta1)
            self.second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        unbias = (1 - beta2**self.steps) ** 0.5
        deviation = self.second.sqrt().add_(EPS * unbias)
        keep = 1 - rate * self.settings.weight_decay
        step = -rate * unbias / (1 - beta1**self.steps)
        if self.steps == 1:  # of one value for all, one value each
            self.value = torch.addcdiv(self.value * keep, self.first, deviation, value=step)
        else:
            self.value.mul_(keep).addcdiv_(self.first, deviation, value=step)


def adapt(adapter: Adapter, tokens: Tensor) -> Adapted:
    """As `Adapter.run`, the batch cut into parts that keep within the memory budget, at least one image each."""
    budget = CPU_ADAPTATION_MEMORY if tokens.device.type == "cpu" else ADAPTATION_MEMORY
    parts = [adapter.run(images) for images in tokens.split(max(1, budget // adapter.image_bytes()))]
    return parts[0] if len(parts) == 1 else Adapted(*(torch.cat(values) for values in zip(*parts, strict=True)))
