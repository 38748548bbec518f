"""`entprog plan RECIPE`: will it fit, how fast, what trains; before any weight is loaded."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path

from entprog.config.schema import Config
from entprog.files import cache_folder, write_atomically
from entprog.plan.calibration import calibrate, is_here
from entprog.plan.caveats import notes
from entprog.plan.chart import svg
from entprog.plan.estimate import Planner
from entprog.plan.inventory import counted
from entprog.plan.largest import largest_m, largest_shape
from entprog.plan.processes import Processes
from entprog.plan.rows import Plan
from entprog.plan.screen import text
from entprog.profiling.hardware import device_here, find_device


def plan(
    config: Config,
    *,
    device: str = "",
    memory: str = "",
    order: str = "",
    json_file: Path | None = None,
    picture: Path | None = None,
    processes: Processes | None = None,
) -> Plan:
    """Print the plan of a run, and write it down where asked.

    Args:
        config: the run; neither data nor weights need to be there.
        device: a name of `hardware.DEVICES` or "cpu"; empty for what this machine has.
        memory: a size such as "24GiB" in the place of the device's own.
        order: "suffix", "spread", a file of block names, or empty for both bounds.
        json_file: where to write all figures.
        picture: where to write the picture of bytes by stage, an SVG.
        processes: how the run is spread over several devices of that kind; None for one process.

    Raises:
        ValueError: no such device, a size that the network doesn't take, a wrong order, or a run that can't be spread
            like this.
    """
    hardware = find_device(device or device_here(), memory)
    planner = Planner(config, hardware, processes)
    phases = list(planner.phases(order))
    if is_here(hardware.name):
        planner.clock = calibrate(planner.clock, planner.operations, cache_folder())
        phases = list(planner.phases(order))  # the same steps, with the seconds that were measured
    for phase in phases:
        phase.largest = largest_m(planner, phase, order)
    fullest = max(phases, key=lambda phase: max(row.peak for row in phase.rows))
    fullest.largest += largest_shape(planner, fullest, order)
    found = Plan(
        planner.subject.name, counted(planner.simulator.inventory.everything()), hardware, planner.precision,
        planner.clock.calibrated, phases, list(notes(planner)),
        asdict(processes) if processes else None,
    )  # fmt: skip
    print(text(found))
    if json_file is not None:
        write_atomically(json_file, json.dumps(found.plain(), indent=2) + "\n")
    if picture is not None:
        write_atomically(picture, svg(found))
    return found


def demo_recipe(overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """The demo's recipe, as its arm with the published method runs it, with `overrides` over it."""
    from entprog.config.load import read_config
    from entprog.demo import ARMS

    with as_file(files("entprog") / "assets" / "demo.toml") as recipe:
        return read_config(recipe, [*ARMS["paper"].items(), *overrides], planned=True)
