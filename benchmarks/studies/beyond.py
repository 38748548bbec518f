"""Does it carry beyond this DiT? A foreign loop with `entprog.attach`, on a U-Net and an MMDiT of diffusers.

    python -m benchmarks.studies.beyond                                    # all that is missing, both networks
    python -m benchmarks.studies.beyond --networks unet --minutes 30       # what is missing of one, for half an hour
    python -m benchmarks.studies.beyond --only-report                      # the tables, from the records that are there

A small network learns rendered people of one domain at 32 px (noise prediction on latents; beside them a reference
image of somebody else, so that it learns to look past it), and is then fine-tuned on people of another domain, two
videos each, with references of their own. Arms share data order, tau and noise:
    full                     AdamW on everything
    cei, random 0, random 1  `attach`: linear schedule in four stages, by CEI and by two random orders
    last third               `attach`: the last third of the blocks; inputs_every = 0, so the backward ends there
    lora                     peft's LoRA of rank 8 on the blocks at ten times the rate; outside trains as for others
Rates are swept for each arm alike, on one seed and people of their own, until the best lies inside; then three seeds
are judged on 64 samples of yet other people, all with the same tau and noise. Each arm runs for as many steps as cost
what full's steps cost (everything that `attach` does is charged), and, in a second table, for the same number of steps.

With four people in the place of 48 (`--subjects 4`) full fine-tuning overfits at once: the U-Net's held-out loss fell
from .483 to .473 at best, with 48 to .390 (by hand, base of 250 steps, n = 1). Whoever trains least wins there.

Parts: base (loss before, cost of making it), prices (FLOPs and bytes of each step, by the meter), scores (what CEI
agrees with), tune and final (one run each). Each adds a line to benchmarks/results/beyond.jsonl, which is never edited;
what is there is not run again. Bases lie in runs/beyond; other base weights start their network's records anew.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, optim

from benchmarks.runner.rate_sweep import sweep
from benchmarks.studies.foreign_loop import (
    ARMS,
    BATCH,
    NETWORKS,
    PROBE,
    STAGES,
    People,
    examined,
    made,
    probe,
    take_step,
    train,
)
from entprog import plugins
from entprog.config.schema import Config
from entprog.core.statistics import mean_and_error, spearman
from entprog.profiling.meter import Meter
from entprog.train.log import describe_run

OUT = Path(__file__).parent.parent / "results" / "beyond.jsonl"
RUNS = Path(__file__).parents[2] / "runs" / "beyond"

RATES = (3e-4, 1e-3, 3e-3)
WIDEN = 3
SEEDS = (0, 1, 2)
TUNING_SEED = 1000

SCORES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("cei", "cei", {}),
    ("loss rise on skip", "skip_loss", {}),
    ("gradient L1", "gradient", {"norm": "l1"}),
    ("gradient SNR", "gradient", {"norm": "snr"}),
    ("from the input on", "order", {"order": "first"}),
)


# --- parts ------------------------------------------------------------------------------------------------------------


def load_base(name: str, steps: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The base's weights, trained first where there are none, and what making them took."""
    path = RUNS / f"{name}-{steps}.safetensors"
    if not path.is_file():
        network, began, stream = made(name), time.process_time(), People("base", 0)
        print(f"{name}: its base is trained first, {steps} steps", flush=True)
        optimizer = optim.AdamW(network.model.parameters(), lr=1e-3, weight_decay=1e-2)
        train(network, optimizer, lambda i: nullcontext(), steps, stream, 2 * BATCH)
        cost = {"cpu_seconds": time.process_time() - began}
        with Meter() as meter:
            network.loss(stream.draw(0, 2 * BATCH)).backward()
        cost["flops"] = float(meter.flops * steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(network.model.state_dict(), path)
        path.with_suffix(".json").write_text(json.dumps(cost) + "\n")
    return load_file(path), json.loads(path.with_suffix(".json").read_text())


def base(name: str, weights: dict[str, Tensor], cost: dict[str, float]) -> dict[str, Any]:
    network = made(name, weights)
    count = sum(p.numel() for p in network.model.parameters())
    return {
        "cost": cost, "blocks": list(network.blocks.names), "parameters": count,
        "tuning": examined(network, "tuning"), "exam": examined(network, "exam"),
    }  # fmt: skip


def prices(name: str, weights: dict[str, Tensor], subjects: int) -> dict[str, Any]:
    """FLOPs and peak bytes of what an arm does first, and of a step of each stage, by arm."""
    found = {}
    stream = People("train", 0, subjects)
    for arm, settings in ARMS.items():
        network = made(name, weights)
        with Meter(network.model) as meter:
            optimizer, step = settings.begin(network, rate=1e-4, steps=STAGES, seed=0, probe=probe(PROBE, subjects))
        first = {"flops": meter.flops, "peak": meter.peak}
        stages = []
        for i in range(STAGES):
            draw = stream.draw(i * BATCH)
            with Meter(network.model, optimizer) as meter:
                take_step(network, optimizer, step, i, draw)
            stages.append({"flops": meter.flops, "peak": meter.peak, "at_peak": meter.at_peak})
        found[arm] = {"first": first, "stages": stages}
    return {"prices": found}


def scores(name: str, weights: dict[str, Tensor], subjects: int) -> dict[str, Any]:
    """Every score on the same 64 samples."""
    network, found = made(name, weights), {}
    draws = probe(64, subjects)
    for label, kind, options in SCORES:
        with Meter() as meter:
            result = plugins.load("score", kind, **options).score(network, network.blocks, draws)
        found[label] = {"values": dict(result.values), "stderr": dict(result.stderr), "flops": meter.flops}
    half = plugins.load("score", "cei").score(network, network.blocks, draws[: len(draws) // 2])
    return {"scores": found, "cei_of_half": dict(half.values)}


def run(
    name: str, weights: dict[str, Tensor], price: Mapping[str, Any], arm: str, kind: str, rate: float, seed: int,
    steps: int, subjects: int,
) -> dict[str, Any]:  # fmt: skip
    """One arm trained once, and its losses on the tuning people, or on the exam's."""
    network, began = made(name, weights), time.process_time()
    count = affordable(price, arm, steps) if kind == "cost" else steps
    optimizer, step = ARMS[arm].begin(network, rate=rate, steps=count, seed=seed, probe=probe(PROBE, subjects))
    train(network, optimizer, step, count, People("train", seed, subjects))
    seconds = time.process_time() - began
    losses = examined(network, "tuning" if seed == TUNING_SEED else "exam")
    loss = sum(losses) / len(losses)
    return {
        "optimizer_steps": count, "flops": spent(price[arm], count), "cpu_seconds": seconds,
        "loss": loss if math.isfinite(loss) else None, "losses": losses if math.isfinite(loss) else [],
    }  # fmt: skip


def spent(price: Mapping[str, Any], count: int) -> int:
    """FLOPs of `count` steps, and of what comes before them."""
    return price["first"]["flops"] + sum(price["stages"][i * STAGES // count]["flops"] for i in range(count))


def affordable(price: Mapping[str, Any], arm: str, steps: int) -> int:
    """How many steps cost at most what `steps` steps of full cost."""
    budget = spent(price["full"], steps)
    count = STAGES
    while spent(price[arm], count + 1) <= budget:
        count += 1
    return count


# --- what is missing --------------------------------------------------------------------------------------------------


def next_part(there: Sequence[dict[str, Any]], kinds: Sequence[str]) -> dict[str, Any] | None:
    """The part to do next, by what is on record; arms take turns."""
    for part in ("base", "prices", "scores"):
        if not any(record["part"] == part for record in there):
            return {"part": part}
    for kind in kinds:
        arms = [arm for arm in ARMS if kind == "cost" or arm != "full"]  # full is the same in both
        swept = {arm: sweep(RATES, tuned(there, arm, kind), WIDEN) for arm in arms}
        waiting = [arm for arm in arms if swept[arm].missing]
        if waiting:
            arm = min(waiting, key=lambda arm: len(tuned(there, arm, kind)))
            return {"part": "tune", "arm": arm, "kind": kind, "rate": swept[arm].missing[0], "seed": TUNING_SEED}
        for seed in SEEDS:
            for arm in arms:
                if not any(record["seed"] == seed for record in finals(there, arm, kind)):
                    return {"part": "final", "arm": arm, "kind": kind, "rate": swept[arm].best, "seed": seed}
    return None


def tuned(there: Sequence[dict[str, Any]], arm: str, kind: str) -> dict[float, float]:
    """Losses of the sweep by rate; a run that diverged has an infinite one."""
    return {
        record["rate"]: math.inf if record["loss"] is None else record["loss"]
        for record in there
        if record["part"] == "tune" and (record["arm"], record["kind"]) == (arm, kind)
    }


def finals(there: Sequence[dict[str, Any]], arm: str, kind: str) -> list[dict[str, Any]]:
    found = [r for r in there if r["part"] == "final" and (r["arm"], r["kind"]) == (arm, kind)]
    return sorted(found, key=lambda record: record["seed"])


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def of(records: Sequence[dict[str, Any]], name: str, settings: argparse.Namespace, digest: str) -> list[dict[str, Any]]:
    """The records of a network's base, at these settings."""
    wanted = {"network": name, **setting(settings), "base": digest}
    return [record for record in records if wanted.items() <= record.items()]


def setting(settings: argparse.Namespace) -> dict[str, int]:
    """What runs must have in common to be compared."""
    return {"steps": settings.steps, "base_steps": settings.base_steps, "subjects": settings.subjects}


def digest_of(weights: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for key in sorted(weights):
        found.update(key.encode() + weights[key].numpy().tobytes())
    return found.hexdigest()[:12]


# --- tables -----------------------------------------------------------------------------------------------------------


def show(settings: argparse.Namespace) -> None:
    """Markdown, of each network's newest base."""
    for name in settings.networks:
        wanted = {"network": name, **setting(settings)}
        every = [record for record in read(settings.out) if wanted.items() <= record.items()]
        if every:
            there = of(every, name, settings, every[-1]["base"])
            print(f"\n## {name}\n\n{about(there, settings.steps)}\n")
            for kind in ("cost", "steps"):
                if any(finals(there, arm, kind) for arm in ARMS):
                    print(table(there, kind), "\n")


def about(there: Sequence[dict[str, Any]], steps: int) -> str:
    by_part = {record["part"]: record for record in there}
    lines = []
    if "base" in by_part:
        first = by_part["base"]
        cost = f"{first['cost']['flops'] / 1e12:.2f} TFLOP"
        if "prices" in by_part:
            times = first["cost"]["flops"] / spent(by_part["prices"]["prices"]["full"], steps)
            cost += f" ({times:.1f} times full's {steps} steps)"
        lines.append(
            f"{first['parameters'] / 1e6:.2f} M parameters, {len(first['blocks'])} blocks. The base cost {cost}, "
            f"charged to nobody; it has a loss of {mean_and_error(first['exam'])[0]:.4f} on the exam."
        )
    if "prices" in by_part:
        charged = by_part["prices"]["prices"]["cei"]
        share = charged["first"]["flops"] / charged["stages"][-1]["flops"]
        lines.append(f"Ranking by CEI on {PROBE} samples costs as much as {share:.1f} steps of full.")
    if "scores" in by_part:
        part = by_part["scores"]
        values = {label: list(each["values"].values()) for label, each in part["scores"].items()}
        listed = ", ".join(
            f"{label} {spearman(values['cei'], values[label]):+.2f}" for label in values if label != "cei"
        )
        half = spearman(values["cei"], list(part["cei_of_half"].values()))
        lines.append(f"Rank correlation of CEI with: {listed}; itself from half of the samples {half:+.2f}.")
    return "\n".join(lines)


def table(there: Sequence[dict[str, Any]], kind: str) -> str:
    """A line an arm; `mean` is that of the steps' peaks. Differences are paired by sample (seeds averaged) and seed."""
    price = next(record["prices"] for record in there if record["part"] == "prices")
    full = {record["seed"]: record for record in finals(there, "full", "cost") if record["loss"] is not None}
    head = "| equal cost " if kind == "cost" else "| equal steps "
    lines = [
        head + "| rate | steps | FLOPs | peak MiB | of full | mean | loss | less full | ± samples | ± seeds | seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for arm in ARMS:
        used = "cost" if arm == "full" else kind
        every = finals(there, arm, used)
        runs = [record for record in every if record["loss"] is not None]
        if not every:
            continue
        found = sweep(RATES, tuned(there, arm, used), WIDEN)
        rate = f"{found.best:.2g}{'' if found.interior else ' (end of the sweep)'}"
        share = every[0]["flops"] / spent(price["full"], every[0]["steps"])
        peak, whole = (peak_of(price[each]) for each in (arm, "full"))
        cells = [
            arm,
            rate,
            str(every[0]["optimizer_steps"]),
            f"{share:.2f}",
            f"{peak / 2**20:.1f}",
            f"{peak / whole:.2f}",
            f"{mean_peak(price[arm]) / whole:.2f}",
        ]
        cells.append(f"{sum(r['loss'] for r in runs) / len(runs):.4f}" if runs else "diverged")
        pairs = [(record, full[record["seed"]]) for record in runs if record["seed"] in full]
        if pairs and arm != "full":
            by_seed = [one["loss"] - other["loss"] for one, other in pairs]
            by_sample = np.mean([np.subtract(one["losses"], other["losses"]) for one, other in pairs], 0).tolist()
            mean, error = mean_and_error(by_sample)
            cells += [f"{mean:+.4f}", f"{error:.4f}", f"{mean_and_error(by_seed)[1]:.4f}" if len(pairs) > 1 else ""]
        else:
            cells += [""] * 3
        lines.append("| " + " | ".join([*cells, str(len(runs))]) + " |")
    return "\n".join(lines)


def peak_of(price: Mapping[str, Any]) -> int:
    """Of ranking and all steps."""
    return max(part["peak"] for part in (price["first"], *price["stages"]))


def mean_peak(price: Mapping[str, Any]) -> float:
    """Of the steps' own peaks; stages are equally long."""
    return sum(stage["peak"] for stage in price["stages"]) / len(price["stages"])


# --- the program ------------------------------------------------------------------------------------------------------


def do(
    part: Mapping[str, Any], name: str, settings: argparse.Namespace, there: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    weights, cost = load_base(name, settings.base_steps)
    if part["part"] == "base":
        return base(name, weights, cost)
    if part["part"] in ("prices", "scores"):
        return {"prices": prices, "scores": scores}[part["part"]](name, weights, settings.subjects)
    price = next(record["prices"] for record in there if record["part"] == "prices")
    which = (part[key] for key in ("arm", "kind", "rate", "seed"))
    return run(name, weights, price, *which, steps=settings.steps, subjects=settings.subjects)


def main() -> None:
    settings = arguments()
    torch.set_num_threads(1)
    began = time.monotonic()
    left = [] if settings.only_report else list(settings.networks)
    while left and (not settings.minutes or time.monotonic() - began < 60 * settings.minutes):
        name = left.pop(0)
        digest = digest_of(load_base(name, settings.base_steps)[0])
        there = of(read(settings.out), name, settings, digest)
        part = next_part(there, settings.kinds)
        if part is None:
            continue
        left.append(name)
        started = time.perf_counter()
        found = do(part, name, settings, there)
        head = {"network": name, **setting(settings), "base": digest, **part}
        record = {**head, **found, "seconds": time.perf_counter() - started, **environment()}
        with settings.out.open("a") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")
        listed = {
            key: value for key, value in head.items() if key in ("network", "part", "arm", "kind", "rate", "seed")
        }
        loss = f" loss {record['loss']}" if "loss" in record else ""
        print(" ".join(map(str, listed.values())) + f":{loss} {record['seconds']:.1f} s", flush=True)
    show(settings)


def environment() -> dict[str, Any]:
    about = describe_run(Config(), torch.device("cpu"), " ".join(["python", *sys.argv]))
    versions = {**about["versions"], "peft": version("peft")}
    return {
        "versions": versions,
        **{key: about[key] for key in ("command", "commit", "device", "capability", "threads")},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--kinds", nargs="+", choices=("cost", "steps"), default=["cost", "steps"], help="equal what")
    parser.add_argument("--steps", type=int, default=150, help="of full: the budget of all")
    parser.add_argument("--base-steps", type=int, default=400)
    parser.add_argument("--subjects", type=int, default=48, help="people trained on, two videos each")
    parser.add_argument("--minutes", type=float, default=0, help="begin no run after so long (0: go on to the end)")
    parser.add_argument("--only-report", action="store_true", help="print the tables of what is there")
    parser.add_argument("--out", type=Path, default=OUT, help="the file of records")
    settings = parser.parse_args()
    if settings.steps < STAGES:
        parser.error(f"--steps {settings.steps}: give at least {STAGES}, one for each stage")
    return settings


if __name__ == "__main__":
    main()
