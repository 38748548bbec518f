"""Store a trained base as the package ships it: python tools/ship_base.py runs/nano-base/final/ema.safetensors.

Weights become bfloat16 (15 MB for nano); the file is written to src/entprog/assets/base-nano.safetensors.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

OUT = Path(__file__).parents[1] / "src" / "entprog" / "assets" / "base-nano.safetensors"


def main() -> None:
    weights = {name: value.to(torch.bfloat16) for name, value in load_file(sys.argv[1]).items()}
    save_file(weights, str(OUT), {"model": "entprog nano", "recipe": "recipes/nano-base-longer.toml"})
    print(f"{OUT.name}: {OUT.stat().st_size / 1e6:.1f} MB, {sum(v.numel() for v in weights.values()):,} parameters")


if __name__ == "__main__":
    main()
