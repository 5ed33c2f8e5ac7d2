"""The options that choose and place a model, shared by the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anovl.cli.settings import load_config
from anovl.config import Tiling
from anovl.errors import UsageError

if TYPE_CHECKING:
    from anovl.methods.few_shot import Bank


def is_several(device: str) -> bool:
    """True for a --device that may name more than one."""
    return device == "all" or "," in device


def tiling(sides: list[int] | None, overlap: float | None, crop: str | None) -> Tiling | None:
    """What --tile, --tile-overlap and --crop say together; None where none is given.

    Raises:
        UsageError: an overlap without tiles, or a value that is not valid.
    """
    if overlap is not None and not sides:
        raise UsageError("--tile-overlap: needs --tile; without tiles nothing overlaps")
    if not sides and crop is None:
        return None
    given = {"overlap": overlap, "crop": crop}
    return Tiling(sides=tuple(sides or ()), **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _one_device(device: str) -> str:
    if is_several(device):
        raise typer.BadParameter(f"expected one device, got {device}; predict, calibrate, evaluate, reproduce, demo take several")
    return device


Arch = Annotated[str | None, typer.Option(help="Architecture of a weight file.")]
RecipeName = Annotated[str | None, typer.Option(help="default, paper or released; if not given, the model's own.")]
ImageSize = Annotated[str | None, typer.Option(help="Model input size, S or HxW, if not the trained one.")]
ClassName = Annotated[
    str | None,
    typer.Option(help="What the images show, such as 'metal nut'; not needed where an exported file holds one class."),
]
Model = Annotated[
    str,
    typer.Option(
        help="ARCH:TAG, hf-hub:ORG/NAME, local-dir:FOLDER or a weight file, `anovl models`; or a file of `anovl export`."
    ),
]
Method = Annotated[
    str, typer.Option(help="anovl, or a compared system: clip, transmm, maskclip, clip_surgery, winclip; docs/methods.md.")
]
BankFile = Annotated[
    Path | None, typer.Option("--bank", help="Good pictures as `anovl fit` keeps them: distances to them join the scores.")
]
BankFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--bank",
        help="NAME=FILE, or a file of `anovl fit` for the first model, which then takes their classes alone; repeat for more.",
        allow_from_autoenv=False,
    ),
]
Adapt = Annotated[bool, typer.Option("--adapt/--no-adapt", help="Adapt to each image at test time (Eq. 9-11 of the paper).")]
AdaptSteps = Annotated[int | None, typer.Option(help="Steps of the adaptation; default the recipe's, 5.")]
Seeds = Annotated[
    list[int] | None,
    typer.Option(
        "--seed",
        help="Seed of the adaptation, default 0; repeat for the mean and spread of several.",
        allow_from_autoenv=False,
    ),
]
MapSize = Annotated[
    str | None, typer.Option("--output-size", help="Map size: image or input (the model's); default the recipe's.")
]
Decoding = Annotated[
    str | None,
    typer.Option(
        "--decode", help="full, or reduced: JPEGs at a fraction of their size, faster and less exact; docs/performance.md."
    ),
]
Tiles = Annotated[
    list[int] | None,
    typer.Option(
        "--tile",
        help="Look at overlapping tiles of so many px of the image too; repeat for more scales; docs/high_resolution.md.",
        allow_from_autoenv=False,
    ),
]
TileOverlap = Annotated[
    float | None, typer.Option(help="Share of a tile that the next one has too, 0 to 0.75; default 0.25.", min=0, max=0.75)
]
Cropping = Annotated[
    str | None, typer.Option("--crop", help="foreground: look only at the part in front of a plain background; default none.")
]
MaxPixels = Annotated[int, typer.Option(help="Larger images are refused.")]
MaxBytes = Annotated[int, typer.Option(help="Larger files are refused.")]
BatchSize = Annotated[int, typer.Option(help="Images a pass, or tiles.", min=1)]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the model; default as many as there are cores.", min=1)]
Workers = Annotated[int, typer.Option(help="Decoding threads.", min=1)]
Device = Annotated[
    str,
    typer.Option(help="auto, cpu, cuda, cuda:1, mps; all (of CUDA) or several with commas between, which share the images."),
]
OneDevice = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.", callback=_one_device)]
DType = Annotated[str, typer.Option(help="auto (fp32), fp32, bf16, fp16.")]
CacheDir = Annotated[Path | None, typer.Option(help="Where checkpoints are kept.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")]
Port = Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
Config = Annotated[
    Path | None,
    typer.Option(help="TOML file with these options; environment and flags go before it.", callback=load_config, is_eager=True),
]


def read_bank(path: str | Path) -> Bank:
    """The bank of --bank; imports torch.

    Raises:
        UsageError: the file is none.
    """
    from anovl.methods.few_shot import Bank

    return Bank.load(path)
