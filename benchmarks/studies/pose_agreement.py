"""How far two pose estimators lie apart on real videos:

    python -m benchmarks.studies.pose_agreement VIDEOS --a blazepose --b openpose-json --b-options folder=POSES

Both are opened by their plugin names and follow the person through each video, at 12 frames a second unless --fps says
otherwise. `openpose-json` reads what any other program has written (tools/movenet_poses.py writes MoveNet's). The
distance of a keypoint is in torsos: neck to the middle of the hips of the same frame, as the first estimator places
them, in the picture or below it. Compared are keypoints of which both estimators have a confidence of at least .5, on
entprog's scale, and where at least one of the two places lies in the picture. The neck is left out: most estimators
take the middle of the shoulders.

Writes a line for each video and one for all of them to the record; --pictures FOLDER saves frames with both skeletons.
"""

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from entprog.cli.overrides import plugin_options
from entprog.data.posemap import LIMBS
from entprog.poses.base import FOUND_THRESHOLD, PoseEstimator
from entprog.poses.loading import open_estimator, pose_settings, wrong_pose
from entprog.prepare.video import Video

RECORD = Path(__file__).parent.parent / "results" / "pose-agreement.jsonl"
SUFFIXES = (".mkv", ".mp4", ".mov", ".webm", ".avi")
SEEN = 0.5
BOUND = 0.1
"""Torsos; the share of keypoints within it is recorded too."""
NECK, HIPS, SHOULDERS = 1, (8, 11), (2, 5)
JOINTS = {
    "nose": (0,), "shoulders": SHOULDERS, "elbows": (3, 6), "wrists": (4, 7), "hips": HIPS, "knees": (9, 12),
    "ankles": (10, 13), "eyes": (14, 15), "ears": (16, 17),
}  # fmt: skip
"""Keypoints of OpenPose-18 by joint, without the neck."""
BODY = slice(2, 14)
"""Shoulders to ankles, without the head, which has five of the eighteen keypoints."""
COLOURS = ((255, 60, 60), (60, 220, 255))


@dataclass(frozen=True)
class Pair:
    """Two estimators' poses of one video: keypoints [F,18,3] in pixels, score [F]; `size` is (width, height)."""

    a: np.ndarray
    b: np.ndarray
    score_a: np.ndarray
    score_b: np.ndarray
    size: tuple[int, int]

    def found(self) -> np.ndarray:
        """The frames in which both found somebody."""
        return np.asarray((self.score_a >= FOUND_THRESHOLD) & (self.score_b >= FOUND_THRESHOLD))

    def torso(self) -> np.ndarray:
        """Pixels [F], of the first estimator; at least one."""
        return np.linalg.norm(self.a[:, NECK, :2] - self.a[:, HIPS, :2].mean(1), axis=1).clip(1)

    def offsets(self) -> np.ndarray:
        """From the first to the second estimator, in torsos [F,18,2]."""
        return np.asarray((self.b[..., :2] - self.a[..., :2]) / self.torso()[:, None, None])

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [F,18] that the first and that the second is sure of, of frames found and places in the picture."""
        places = ((kp[..., :2] >= 0) & (kp[..., :2] <= self.size) for kp in (self.a, self.b))
        inside_a, inside_b = (place.all(-1) for place in places)
        usable = self.found()[:, None] & (inside_a | inside_b)
        usable[:, NECK] = False
        return usable & (self.a[..., 2] >= SEEN), usable & (self.b[..., 2] >= SEEN)


def poses_of(file: Path, one: PoseEstimator, other: PoseEstimator, fps: float) -> tuple[Pair, list[np.ndarray]]:
    """Both estimators' tracks of a video, and its frames."""
    video, trackers, frames = Video(file, fps=fps), (one.tracker(file), other.tracker(file)), []
    for frame in video:
        for tracker in trackers:
            tracker.step(frame, index=video.index)
        frames.append(frame)
    a, b = (tracker.result() for tracker in trackers)
    return Pair(a.keypoints, b.keypoints, a.score, b.score, video.size), frames


def agreement(pairs: list[Pair]) -> dict[str, Any]:
    """Distances over the keypoints of some videos together, all and by joint, and the shares that were found.

    `alike`: keypoints that both are sure of, as a share of those that one of them is sure of. `aside`: the median
    offset from the first estimator to the second, right and down, which is what their definitions differ by; `around`
    is the median distance when it is taken off.
    """
    offsets = np.concatenate([pair.offsets() for pair in pairs])
    seen_a, seen_b = (np.concatenate(seen) for seen in zip(*(pair.seen() for pair in pairs), strict=True))
    both, either = seen_a & seen_b, seen_a | seen_b
    found_a, found_b = (
        np.concatenate(scores) >= FOUND_THRESHOLD
        for scores in zip(*((pair.score_a, pair.score_b) for pair in pairs), strict=True)
    )
    torsos = np.concatenate([pair.torso()[pair.found()] for pair in pairs])
    shoulders = np.concatenate([np.linalg.norm(p.a[:, 2, :2] - p.a[:, 5, :2], axis=1)[p.found()] for p in pairs])
    row: dict[str, Any] = {
        "frames": len(found_a), "found_a": share(found_a), "found_b": share(found_b),
        "torso_px": rounded(torsos, 1), "torso_in_shoulder_widths": rounded(torsos / shoulders.clip(1), 3),
    }  # fmt: skip
    row |= distances(offsets[both]) | {"alike": share(both[either])}
    row["body"] = distances(offsets[:, BODY][both[:, BODY]])
    row["joints"] = {}
    for name, points in JOINTS.items():
        chosen = np.zeros(18, bool)
        chosen[list(points)] = True
        here = distances(offsets[both & chosen])
        if here["keypoints"]:
            sides = [offsets[:, point][both[:, point]] for point in points]
            here["aside"] = [
                np.median(side, 0).astype(float).round(3).tolist() if len(side) else None for side in sides
            ]
            around = [np.linalg.norm(side - np.median(side, 0), axis=1) for side in sides if len(side)]
            here["around"] = rounded(np.concatenate(around))
        row["joints"][name] = here | {"alike": share((both & chosen)[either & chosen])}
    return row


def apart(pair: Pair) -> Pair:
    """The first estimator's poses beside the second's of half a clip later: the distance of a wrong pose."""
    half = len(pair.b) // 2
    return replace(pair, b=np.roll(pair.b, half, 0), score_b=np.roll(pair.score_b, half, 0))


def distances(offsets: np.ndarray) -> dict[str, Any]:
    """Of keypoints [K,2]: how many, median and 90 % quantile of the length, share within the bound."""
    far = np.linalg.norm(offsets, axis=-1)
    ninety = round(float(np.quantile(far, 0.9)), 4) if len(far) else None
    return {"keypoints": len(far), "median": rounded(far), "p90": ninety, "within": share(far <= BOUND)}


def rounded(values: np.ndarray, digits: int = 4) -> float | None:
    return round(float(np.median(values)), digits) if len(values) else None


def share(flags: np.ndarray) -> float | None:
    return round(float(flags.mean()), 4) if len(flags) else None


def drawn(frame: np.ndarray, pair: Pair, index: int) -> Image.Image:
    """A frame with both skeletons at twice its size: the first red, the second blue; thin where one is unsure."""
    picture = Image.fromarray(frame).resize((2 * frame.shape[1], 2 * frame.shape[0]))
    pen = ImageDraw.Draw(picture)
    for keypoints, colour in zip((pair.a[index], pair.b[index]), COLOURS, strict=True):
        places = [(float(2 * x), float(2 * y)) for x, y in keypoints[:, :2]]
        for start, end in LIMBS:
            sure = min(keypoints[start, 2], keypoints[end, 2]) >= SEEN
            if keypoints[start].any() and keypoints[end].any():
                pen.line([places[start], places[end]], fill=colour, width=4 if sure else 1)
        for (x, y), confidence in zip(places, keypoints[:, 2], strict=True):
            if confidence >= SEEN:
                pen.ellipse((x - 5, y - 5, x + 5, y + 5), outline=colour, width=3)
    return picture


def saved(folder: Path, stem: str, pair: Pair, frames: list[np.ndarray]) -> None:
    """The frame in the middle, and the one in which the estimators differ most."""
    seen_a, seen_b = pair.seen()
    far = np.where(seen_a & seen_b, np.linalg.norm(pair.offsets(), axis=-1), 0).max(1)
    for name, index in (("middle", len(frames) // 2), ("worst", int(far.argmax()))):
        drawn(frames[index], pair, index).save(folder / f"{stem}-{name}-{index}.png")


def estimator(side: str, name: str, texts: list[str]) -> tuple[PoseEstimator, dict[str, Any]]:
    """The estimator that --a or --b names, and what the record says of it."""
    options = plugin_options("pose", name, texts)
    if wrong := wrong_pose(name, options):
        raise ValueError("; ".join(f"--{side}: {text}" for text in wrong))
    options_kept = {
        key: value for key, value in pose_settings(name, options)["pose_options"].items() if key != "folder"
    }
    return open_estimator(name, options), {"name": name, "options": {k: v for k, v in options_kept.items() if v}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for frames with both skeletons")
    parser.add_argument("--fps", type=float, default=12.0, help="frames a second; pose files need these frames")
    parser.add_argument("--about", default="", help="what stands behind pose files: network, package, versions, hash")
    for side, default in (("a", "blazepose"), ("b", "openpose-json")):
        parser.add_argument(f"--{side}", default=default, help="a pose estimator")
        parser.add_argument(f"--{side}-options", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--record", type=Path, default=RECORD)
    given = parser.parse_args()
    files = sorted(file for file in given.videos.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        parser.error(f"videos = {str(given.videos)!r}: no video there; give a folder with {', '.join(SUFFIXES)}")
    try:
        (one, about_a), (other, about_b) = (
            estimator(side, getattr(given, side), getattr(given, f"{side}_options")) for side in ("a", "b")
        )
    except ValueError as error:
        parser.error(str(error))
    if given.pictures:
        given.pictures.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    about = {"a": about_a, "b": about_b, "about": given.about, "fps": given.fps, "confidence": SEEN, "commit": commit}
    about |= {"torch": torch.__version__, "python": platform.python_version()}
    pairs = []
    for file in files:
        pair, frames = poses_of(file, one, other, given.fps)
        if given.pictures:
            saved(given.pictures, file.stem, pair, frames)
        pairs.append(pair)
        row = {"kind": "clip", "name": file.stem} | agreement([pair])
        write(given.record, row)
        print(file.name, row["median"], flush=True)
    wrong = agreement([apart(pair) for pair in pairs])
    control = {name: joint["median"] for name, joint in wrong["joints"].items()} | {"all": wrong["median"]}
    total = {"kind": "all", "clips": len(pairs)} | about | agreement(pairs) | {"medians_half_a_clip_apart": control}
    write(given.record, total)
    json.dump(total, sys.stdout, indent=1)


def write(record: Path, row: dict[str, Any]) -> None:
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
