"""Names of devices and precisions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anovl.errors import UsageError, suggest

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(device: str | torch.device) -> torch.device:
    """A torch device; "auto" is cuda, then mps, then cpu.

    Raises:
        UsageError: no such device on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError as exc:
        raise UsageError(suggest("device", str(device), DEVICES)) from exc
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count() > 0:
        raise UsageError(f"device {device!s}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    absent = (picked.type == "cuda" and not torch.cuda.is_available()) or (
        picked.type == "mps" and not torch.backends.mps.is_available()
    )
    if absent or picked.type not in DEVICES:
        raise UsageError(f"device {device!s} is not available on this machine; 'auto' takes the best there is")
    return picked


def pick_devices(device: str | torch.device | Sequence[str | torch.device]) -> tuple[torch.device, ...]:
    """One device or several: a name, names with commas between, or a sequence; a device may come more than once.

    "all" is every CUDA device, or what "auto" picks where there is none.

    Raises:
        UsageError: no such device on this machine, nothing between two commas, "auto" among several.
    """
    if device == "all":
        device = [f"cuda:{index}" for index in range(torch.cuda.device_count())] or "auto"
    if isinstance(device, torch.device):
        return (pick_device(device),)
    names = [name.strip() for name in device.split(",")] if isinstance(device, str) else list(device)
    if not names or "" in names:
        raise UsageError(f"device: expected one, or several with commas between, such as cuda:0,cuda:1, got {device!r}")
    if len(names) > 1 and "auto" in names:
        raise UsageError("device: 'auto' picks one; name each of several, or take 'all'")
    return tuple(pick_device(name) for name in names)


def pick_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype by its short name; "auto" is fp32.

    Raises:
        UsageError: not one of auto, fp32, bf16, fp16.
    """
    if isinstance(dtype, torch.dtype):
        if dtype not in DTYPES.values():
            raise UsageError(f"dtype: expected float32, bfloat16 or float16, got {dtype}")
        return dtype
    if dtype not in DTYPES:
        raise UsageError(suggest("dtype", dtype, DTYPES))
    return DTYPES[dtype]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on a device; a GPU fetches them itself, from memory that stays in place, while the CPU goes on."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def use_threads(threads: int | None) -> None:
    """CPU threads of torch in this process; None leaves them as they are.

    Raises:
        UsageError: below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    torch.set_num_threads(threads)
