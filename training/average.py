"""The mean of the weights of two trained models, one begun with the other's.

    python training/average.py runs/second/model runs/third/model runs/mini --share 0.6

After "Robust fine-tuning of zero-shot models" (Wortsman et al. 2022): the mean keeps what the second learnt, and what the first
did better elsewhere.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from train import WEIGHTS, refit


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a model folder")
    parser.add_argument("after", type=Path, help="a model folder of the same architecture; its patches may be smaller or larger")
    parser.add_argument("out", type=Path, help="folder to write, new")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    options = parser.parse_args()
    if not 0 <= options.share <= 1:
        parser.error(f"--share: expected 0 to 1, got {options.share}")
    for folder in (options.before, options.after):
        if not (folder / WEIGHTS).is_file():
            parser.error(f"{folder}: expected a model folder, it has no {WEIGHTS}")
    if options.out.exists():
        parser.error(f"{options.out} is there already; name another folder")
    before, after = (load_file(folder / WEIGHTS) for folder in (options.before, options.after))
    before = refit(before, after)
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        parser.error(f"{options.before} and {options.after} differ in architecture or vocabulary")
    shutil.copytree(options.after, options.out)
    mean = {name: before[name].float().lerp(after[name].float(), options.share).half() for name in sorted(before)}
    save_file(mean, options.out / WEIGHTS)


if __name__ == "__main__":
    main()
