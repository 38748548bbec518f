"""Prepare the real clips that the package ships: python tools/ship_clips.py FOLDER

FOLDER holds the videos and their MANIFEST.tsv (file, source, path, licence, ..., shows). Each becomes one clip of
latents at 64 px and keypoints, 12 frames a second; 6 of 20 are held out by a hash of their names. Written to
src/entprog/assets/clips. Prints the lines of each for NOTICE.
"""

import csv
import json
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from entprog.data.shards import Shards, write_atomically
from entprog.prepare.folder import prepare_folder

OUT = Path(__file__).parents[1] / "src" / "entprog" / "assets" / "clips"
SIZE, FPS, HOLDOUT = 64, 12.0, 0.32
LARGEST = 5_000_000
SHIPPED = ("dataset.json", "index.jsonl", "shard-00000.safetensors")


def main() -> None:
    folder = Path(sys.argv[1])
    with (folder / "MANIFEST.tsv").open(encoding="utf-8", newline="") as stream:
        titles = {row["file"]: row for row in csv.DictReader(stream, delimiter="\t")}
    with tempfile.TemporaryDirectory() as aside:
        prepared = prepare_folder([folder], Path(aside) / "clips", sizes=(SIZE,), fps=FPS, holdout=HOLDOUT).out
        rows = []
        for row in Shards(prepared).rows:
            about = titles[Path(row.source).name]
            source = f"{about['source']}/{about['path'].removeprefix('master:')}"
            name = Path(source).stem
            rows.append(
                replace(row, clip=name, motion=name, scene=name, source=source, subject=_signer(about["shows"]))
            )
        text = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
        write_atomically(prepared / "index.jsonl", text)
        size = sum((prepared / name).stat().st_size for name in SHIPPED)
        if size > LARGEST:
            raise SystemExit(f"ship_clips.py: {size} bytes, more than the {LARGEST} that the package may ship")
        OUT.mkdir(exist_ok=True)
        for name in SHIPPED:
            shutil.copyfile(prepared / name, OUT / name)
    held = sum(row.split == "holdout" for row in rows)
    print(f"{OUT}: {len(rows)} clips, {held} held out, {size / 1e6:.2f} MB. For NOTICE:")
    for row in rows:
        print(f"  {row.clip} ({row.source})")


def _signer(shows: str) -> str:
    """The person by the manifest's name: "signer A"."""
    found = re.search(r"signer \w", shows)
    if found is None:
        raise SystemExit(f"ship_clips.py: no signer in {shows!r}")
    return found[0]


if __name__ == "__main__":
    main()
