"""What the demo compares: recipes, and the ways to train them."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path

from entprog.config.load import ConfigWarning, read_config
from entprog.config.schema import Config

ARMS: dict[str, dict[str, str]] = {
    "full": {"method": "full"},
    "paper": {"method": "progressive", "preset": "paper"},
}
"""Full fine-tuning and the published method, of any recipe."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train.

    Attributes:
        label: its name in tables, on the page and as its folder.
        keys: what it changes in the recipe.
        seconds: by phase, what a step takes on one core; only how the bar shares out its time depends on it.
        ranking: likewise what the ranking of a phase takes.
    """

    label: str
    keys: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    ranking: float = 0.0


@dataclass(frozen=True, slots=True)
class Demo:
    """A recipe and its arms; they train equal steps on equal data in equal order, with equal noise.

    Attributes:
        recipe: file name under assets/.
        about: what is compared, for the heading of the table.
        keys: what every arm changes in the recipe.
        before: the label of the base as it is, evaluated beside the arms; "" to leave it out.
        clip: seconds that the bar allows for sampling one held-out clip.
    """

    name: str
    recipe: str
    about: str
    arms: tuple[Arm, ...]
    keys: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    clip: float = 5.5

    def config(self, arm: Arm, out: Path) -> Config:
        """An arm's configuration, with `out`/LABEL as its run folder."""
        given = {"output_dir": json.dumps(str(out / arm.label)), "label": json.dumps(arm.label)}
        with as_file(files("entprog") / "assets" / self.recipe) as recipe, warnings.catch_warnings():
            warnings.simplefilter("ignore", ConfigWarning)  # keys of a ranking are there for one arm only
            return read_config(recipe, {**self.keys, **given, **arm.keys})


CLIPS = Demo(
    name="clips",
    recipe="demo-clips.toml",
    about="real videos: the shipped base before and after fine-tuning on 14 clips, judged on 6 others",
    arms=(
        Arm("full", ARMS["full"], {"pose": 0.32, "video": 0.32}),
        Arm("published", ARMS["paper"], {"pose": 0.36, "video": 0.36}, ranking=13.0),
        Arm(
            "entprog",
            {"method": "entprog", "model.pose": "blocks", "method_options.full": '["blocks.*.pose"]'},
            {"pose": 0.77, "video": 0.24},
        ),
    ),
    before="before",
)

QUICK = Demo(
    name="quick",
    recipe="demo-clips.toml",
    about="real videos, one minute: few steps and few samples, to see that it runs more than what it can do",
    arms=CLIPS.arms,
    keys={
        "phases.pose.steps": "8",
        "phases.pose.batch": "4",
        "phases.video.steps": "5",
        "phases.video.batch": "1",
        "phases.video.frames": "6",
        "ranking.samples": "2",
        "schedule.options": "{stages = 1, search_steps = 4}",
        "train.lr_warmup_steps": "2",
        "train.holdout_clips": "4",
        "evaluate.metrics": '["l1", "psnr", "ssim"]',
        "evaluate.clips": "2",
        "evaluate.frames": "6",
        "evaluate.videos": "2",
        "sample.num_inference_steps": "5",
    },
    before="before",
    clip=1.5,
)

RENDERED = Demo(
    name="rendered",
    recipe="demo.toml",
    about="rendered people: full fine-tuning against the published method, from the shipped base",
    arms=(
        Arm("full", ARMS["full"], {"subject": 0.3, "pose": 0.3, "video": 0.8}),
        Arm("paper", ARMS["paper"], {"subject": 0.35, "pose": 0.35, "video": 0.9}, ranking=10.0),
    ),
    keys={
        "phases.subject.learning_rate": "1e-5",
        "phases.pose.learning_rate": "1e-5",
        "phases.video.learning_rate": "3.3e-5",
    },
    clip=2.0,
)
