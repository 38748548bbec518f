"""How right the packaged pose estimator is, and what it costs: python -m benchmarks.studies.poses rendered|real|time.

rendered  people from the renderer, whose keypoints are known: share found, and PCK@0.2 of the torso at 64, 128, 256 px
real      clips of a folder (CLIPS): the same frames smaller, mirrored and shifted, against the frames as they are
time      processor time of the parts of one step of tracking

Appends a line to benchmarks/results/poses.jsonl each time, with commit and versions.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from entprog.metrics.pose_error import HIPS, NECK, VISIBLE, PoseError, estimate
from entprog.poses.base import FOUND_THRESHOLD
from entprog.poses.blazepose import PoseEstimator
from entprog.prepare.video import read_video
from entprog.synthetic import render_clip

RECORD = Path(__file__).parent.parent / "results" / "poses.jsonl"
NEAR = 0.2
MIRRORED = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
"""Where each keypoint is in the mirrored picture: left is right."""
SCALES = (0.75, 0.5, 0.33)


def rendered(clips: int, frames: int) -> dict[str, Any]:
    """PCK against the renderer's keypoints, each clip another person, motion and camera; spread over the clips."""
    found: dict[str, Any] = {"clips": clips, "frames": frames}
    for size in (64, 128, 256):
        shares, people, errors = [], [], []
        for i in range(clips):
            clip = render_clip(24, i, i, frames=frames, size=size, domain="target")
            pictures = torch.from_numpy(clip.frames).movedim(-1, -3)[None].float() / 255
            metric = PoseError(near=NEAR)
            metric.update_keypoints(pictures, torch.from_numpy(clip.keypoints)[None].float())
            values = metric.compute()
            shares.append(values["pck"])
            people.append(values["pose_found"])
            errors.append(values["pose_error"])
        found[str(size)] = {
            "pck": mean(shares), "stderr": round(float(np.std(shares, ddof=1) / len(shares) ** 0.5), 4),
            "worst_clip": round(min(shares), 4), "found": mean(people), "error_torsos": mean(errors),
        }  # fmt: skip
    return found


def real(folder: Path, every: int) -> dict[str, Any]:
    """Distance in torsos between the pose of a frame and of the same frame changed, over keypoints seen in both."""
    changes: dict[str, list[np.ndarray]] = {}
    lost: dict[str, list[float]] = {}
    files = sorted(folder.glob("*.mkv"))
    for file in files:
        frames = read_video(file, fps=12)[0][::every]
        pictures = torch.from_numpy(frames).movedim(-1, 1)[None].float() / 255
        base, score = estimate(pictures)
        for name, (changed, back) in altered(pictures).items():
            keypoints, other = estimate(changed)
            keypoints = back(keypoints)
            both = (score >= FOUND_THRESHOLD) & (other >= FOUND_THRESHOLD)
            lost.setdefault(name, []).append(1 - float(both.float().mean()))
            changes.setdefault(name, []).append(distances(base[both], keypoints[both], pictures.shape))
        print(file.name, flush=True)
    rows: dict[str, Any] = {"clips": len(files), "every": every}
    for name, parts in changes.items():
        every_one, medians = np.concatenate(parts), [float(np.median(part)) for part in parts if len(part)]
        rows[name] = {
            "median_torsos": round(float(np.median(every_one)), 4),
            "p90_torsos": round(float(np.quantile(every_one, 0.9)), 4),
            "worst_clip_median": round(max(medians), 4), "keypoints": len(every_one), "lost_frames": mean(lost[name]),
        }  # fmt: skip
    return rows


Back = Callable[[torch.Tensor], torch.Tensor]


def altered(pictures: torch.Tensor) -> dict[str, tuple[torch.Tensor, Back]]:
    """Changed pictures [1,F,3,H,W], and how their keypoints are those of the unchanged ones again."""

    def smaller(scale: float) -> tuple[torch.Tensor, Back]:
        size = [round(side * scale) for side in pictures.shape[-2:]]
        return F.interpolate(pictures[0], size=size, mode="area")[None], lambda keypoints: keypoints

    def mirrored(keypoints: torch.Tensor) -> torch.Tensor:
        keypoints = keypoints[..., list(MIRRORED), :].clone()
        keypoints[..., 0] = 1 - keypoints[..., 0]
        return keypoints

    shift = pictures.shape[-1] // 10

    def unshifted(keypoints: torch.Tensor) -> torch.Tensor:
        keypoints = keypoints.clone()
        keypoints[..., 0] -= shift / pictures.shape[-1]
        return keypoints

    moved = F.pad(pictures, (shift, 0, 0, 0, 0, 0), mode="constant")[..., : pictures.shape[-1]]
    same = {f"scale {scale}": smaller(scale) for scale in SCALES}
    return same | {"mirrored": (pictures.flip(-1), mirrored), "shifted by a tenth": (moved, unshifted)}


def distances(one: torch.Tensor, other: torch.Tensor, shape: torch.Size) -> np.ndarray:
    """In torsos of `one`, both [F,18,3] relative to pictures of this shape; keypoints that both see in the picture."""
    pixels = torch.tensor([shape[-1], shape[-2]], dtype=torch.float32)
    a, b = one[..., :2] * pixels, other[..., :2] * pixels
    torso = (a[:, NECK] - a[:, list(HIPS)].mean(1)).norm(dim=-1).clamp_min(1)
    inside = ((one[..., :2] >= 0) & (one[..., :2] <= 1)).all(-1)
    seen = inside & (one[..., 2] >= VISIBLE) & (other[..., 2] >= VISIBLE)
    return np.asarray(((a - b).norm(dim=-1) / torso[:, None])[seen])


def timed(runs: int) -> dict[str, Any]:
    """Milliseconds of processor time of one frame of 512 x 683 px, one thread: median of `runs`."""
    torch.set_num_threads(1)
    estimator = PoseEstimator()
    frame = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (1, 512, 683, 3), dtype=np.uint8))
    person = estimator.detect(frame)[0]
    from entprog.poses._people import Person

    circle = person[0] if person else Person((340.0, 256.0), 250.0, 0.1, 1.0)
    parts: dict[str, Callable[[], object]] = {
        "read": lambda: estimator.read(frame, [circle]), "detect": lambda: estimator.detect(frame)
    }  # fmt: skip
    rows: dict[str, Any] = {"runs": runs}
    for name, part in parts.items():
        taken = []
        for _ in range(runs):
            start = time.process_time()
            part()
            taken.append(1e3 * (time.process_time() - start))
        taken.sort()
        rows[name] = {"median_ms": round(taken[runs // 2], 2), "min_ms": round(taken[0], 2)}
    return rows


def mean(values: list[float]) -> float:
    return round(float(np.mean(values)), 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("rendered", "real", "time"))
    parser.add_argument("--clips", type=Path, default=Path("../shared/clips"), help="folder of real clips")
    parser.add_argument("-n", type=int, default=24, help="rendered clips, or runs of time")
    parser.add_argument("--frames", type=int, default=4, help="of a rendered clip")
    parser.add_argument("--every", type=int, default=6, help="use every so many frames of real clips (at 12 a second)")
    given = parser.parse_args()
    match given.what:
        case "rendered":
            found = rendered(given.n, given.frames)
        case "real":
            found = real(given.clips, given.every)
        case _:
            found = timed(given.n)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {"what": given.what, "command": " ".join(["python -m benchmarks.studies.poses", *sys.argv[1:]])}
    about |= {"commit": commit, "torch": torch.__version__, "python": platform.python_version()}
    with RECORD.open("a", encoding="utf-8") as file:
        file.write(json.dumps(about | found) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
