"""The contract of each kind over every plugin that there is, and over one of each kind in a package of the user's."""

import sys
import textwrap
from pathlib import Path

import pytest

import tiny_vaes
from contracts import CHECKS, declared
from entprog.plugins import names

SHIPPED = [(kind, name) for kind in CHECKS for name in names(kind)]

OF_FILES = {("pose", "dwpose"), ("pose", "openpose_json")}
"""Their contract is checked in tests/poses, with the files that they read."""

OWN = {
    "score": """
        @dataclass(frozen=True)
        class Longest:
            '''The blocks with the most parameters first: no options, no samples.'''

            def score(self, task, blocks, draws):
                return Scores({b.name: float(sum(p.numel() for p in b.parameters())) for b in blocks})
    """,
    "schedule": """
        @dataclass(frozen=True)
        class Half:
            '''Half of the blocks throughout.'''

            stages: int = 1
            search_steps = 0
            estimator = "none"

            def candidates(self, stage, ranking, shape, last):
                return (Workload(ranking.top(max(1, len(ranking.names) // 2)), shape),)

            def shapes(self, shape):
                return (shape,)

            def choose(self, trials, cost):
                raise ValueError("never chooses")
    """,
    "method": """
        @dataclass(frozen=True)
        class Odd(MethodPlugin):
            '''Trains every second block.'''

            ranked = False

            def bind(self, context):
                return Bound(context)

        class Bound(Method):
            def __init__(self, context):
                self.names = tuple(context.blocks.names[1::2])
                self.freezer = Freezer(context.task.model, context.blocks, context.optimizer)

            def plan(self, i):
                return StepPlan(Workload(self.names), i)

            @contextmanager
            def step(self, i):
                self.freezer.train_only(self.names)
                yield self.plan(i)

            def state_dict(self):
                return {"freezer": self.freezer.state_dict()}

            def load_state_dict(self, state):
                self.freezer.load_state_dict(state["freezer"])
    """,
    "optimizer": """
        @dataclass(frozen=True)
        class Momentum(OptimizerPlugin):
            '''SGD with momentum: one state a parameter.'''

            momentum: float = 0.9

            def build(self, groups, adam):
                return optim.SGD(groups, lr=groups[0]["lr"], momentum=self.momentum)

            def states(self, shape, size, *, counted, role):
                return [prod(shape) * size]
    """,
    "metric": """
        @dataclass(frozen=True)
        class Brightness:
            '''Difference of the mean brightness.'''

            _seen: list = field(default_factory=list, init=False, repr=False, compare=False)

            def update(self, fake, real):
                self._seen.append(float((fake.mean() - real.mean()).abs()))

            def compute(self):
                return {"brightness": sum(self._seen) / len(self._seen)}
    """,
    "codec": """
        @dataclass(frozen=True)
        class Pixels:
            '''No codec: pixels in blocks of two.'''

            def open(self):
                return Shuffled()

        class Shuffled(Codec):
            name, channels, factor, hash = "pixels", 12, 2, "pixels"

            def encode(self, frames):
                return self.encode_pixels(torch.as_tensor(frames).movedim(-1, -3).float() / 255)

            def encode_pixels(self, frames):
                return functional.pixel_unshuffle(frames, 2)

            def decode(self, latents):
                return functional.pixel_shuffle(latents, 2).clamp(0, 1)
    """,
    "pose": """
        @dataclass(frozen=True)
        class Bright:
            '''Whoever wears the only colours in a grey picture.'''

            def open(self, device="cpu"):
                return Colours()

        class Colours:
            def single(self, frames):
                seen = (frames.amax(-1) != frames.amin(-1)).flatten(1).any(1).float()
                return torch.full((len(frames), 18, 3), 0.5) * seen[:, None, None], seen

            def tracker(self, source=None):
                return Steps(self)

        class Steps:
            def __init__(self, estimator):
                self.estimator, self.rows = estimator, []

            def step(self, frame, *, index, restart=False):
                keypoints, score = self.estimator.single(torch.from_numpy(frame)[None])
                pixels = keypoints[0].numpy() * [frame.shape[1], frame.shape[0], 1]
                self.rows.append((pixels.astype("float32"), float(score[0]), int(score[0])))
                return self.rows[-1][0]

            def result(self):
                return gathered(self.rows)
    """,
    "task": "",  # toy_vectors:Vectors is one
}
IMPORTS = """
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import torch
from torch import optim
from torch.nn import functional

from entprog.codecs.base import Codec
from entprog.core.freeze import Freezer
from entprog.core.types import Scores, StepPlan, Workload
from entprog.methods.base import Method, MethodPlugin
from entprog.optimizers.base import OptimizerPlugin
from entprog.poses.base import gathered
"""


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=[f"{kind}-{name}" for kind, name in SHIPPED])
def test_every_plugin_keeps_the_contract_of_its_kind(kind: str, name: str, tmp_path: Path) -> None:
    if name in ("adamw8bit",):
        pytest.importorskip("torchao")
    if name == "frechet":
        pytest.importorskip("efficientnet_lite_pytorch")
    declared(kind, name)
    if (kind, name) in OF_FILES:
        return
    options = {"folder": str(tiny_vaes.save(tmp_path))} if (kind, name) == ("codec", "diffusers") else {}
    CHECKS[kind](name, **options)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_plugin_of_ones_own_is_one_file(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / f"own_{kind}s"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(IMPORTS + textwrap.dedent(OWN[kind]))
    name = "toy_vectors:Vectors"
    if OWN[kind]:
        first = next(line for line in OWN[kind].splitlines() if line.strip().startswith("class "))
        name = f"own_{kind}s.mine:{first.split()[1].split('(')[0].rstrip(':')}"
    declared(kind, name)
    CHECKS[kind](name)
    sys.modules.pop(f"own_{kind}s.mine", None)
