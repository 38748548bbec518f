"""`entprog demo`: full fine-tuning and the published method from the same base, side by side."""

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

from entprog.config.load import read_config
from entprog.report import summary_table, write_report
from entprog.train.checkpoint import checkpoints
from entprog.train.run import train

ARMS: dict[str, dict[str, str]] = {
    "full": {"method": "full"},
    "paper": {"method": "progressive", "preset": "paper"},
}
"""The demo's runs: equal steps, data, order and noise; only what trains differs."""

RATES: dict[str, dict[str, str]] = {
    "full": {"subject": "1e-5", "pose": "1e-5", "video": "3.3e-5"},
    "paper": {"subject": "1e-5", "pose": "1e-5", "video": "3.3e-5"},
}
"""Learning rates by arm and phase, each tuned alike (docs/lab.md has the sweep)."""


def demo(out: Path) -> None:
    """Train both arms into `out`, write `out`/report.html, and print the comparison.

    An arm that is finished is kept; one that was interrupted goes on from its last checkpoint.
    """
    runs = [_arm(out / name, name) for name in ARMS]
    page = write_report(runs, out / "report.html")
    print(f"\nFull fine-tuning against the published method, {_described()}\n")
    print(summary_table(runs))
    print(f"\nreport  {page}\nvideos  {', '.join(str(run / 'samples') for run in runs)}")


def _arm(run: Path, name: str) -> Path:
    overrides = {"output_dir": json.dumps(str(run)), "label": name, **ARMS[name]}
    for phase, rate in RATES[name].items():
        overrides[f"phases.{phase}.learning_rate"] = rate
    with as_file(files("entprog") / "assets" / "demo.toml") as recipe:
        config = read_config(recipe, overrides)
    resume = None
    if (run / "config.toml").is_file():  # a run killed while people were rendered has no run.json yet
        about = run / "run.json"
        if about.is_file() and json.loads(about.read_text(encoding="utf-8"))["status"] == "finished":
            print(f"{run}: finished before, kept (delete it to train anew)")
            return run
        if checkpoints(run):
            resume = "latest"
        else:
            shutil.rmtree(run)
    return train(config, resume_from_checkpoint=resume, command="entprog demo")


def _described() -> str:
    return "on held-out rendered people, from the shipped base:"
