"""The commands: arguments and help only; each imports its verb when it runs."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from entprog import plugins
from entprog.cli.overrides import Overrides, either, integers, listed, pairs, plugin_options, without_none
from entprog.cli.printed_recipe import recipe as printed_recipe
from entprog.config.load import ConfigError, read_config
from entprog.config.presets import PRESETS

SHORT = [name for name, values in PRESETS.items() if "method" in values]
Method = Annotated[str | None, Parameter(help=f"{either([*plugins.names('method'), *SHORT])}.")]
Preset = Annotated[str | None, Parameter(help=f"{either(filter(None, PRESETS))}; entprog train --keys explains each.")]


def demo(*, out: Path = Path("runs/demo"), quick: bool = False, rendered: bool = False) -> None:
    """Fine-tune the shipped base on real videos in several ways, and compare them.

    Trains on 14 clips that the package ships: in full, by the published method
    and by the preset "entprog", each from the same weights, with equal data and
    noise. Ends with a table and a page that shows clips the models did not train
    on, before and after, and which block trained when. Needs no data and no
    network. Ctrl-C stops; the same command goes on.

        entprog demo --out runs/demo
        entprog demo --quick --out runs/quick

    Args:
        out: folder of all runs; finished ones in it are kept, interrupted ones go on.
        quick: about a minute in all: few steps and few samples.
        rendered: rendered people, in full and by the published method.
    """
    from entprog.demo import demo as verb

    verb(out, rendered=rendered, quick=quick)


def prepare(
    inputs: list[Path],
    out: Path,
    /,
    *,
    sizes: Annotated[tuple[str, ...], Parameter(negative=(), show_default="32,64")] = ("32", "64"),
    fps: Annotated[float | None, Parameter(show_default="12, with --codec 16")] = None,
    people: Literal["largest", "drop"] = "largest",
    min_frames: Annotated[int | None, Parameter(show_default="16")] = None,
    max_frames: int | None = None,
    min_sharpness: Annotated[float | None, Parameter(show_default="0.2")] = None,
    holdout: float = 0.1,
    workers: Annotated[int | None, Parameter(show_default="the cores")] = None,
    layout: Literal["folder", "tiktok", "ubc-fashion"] = "folder",
    device: str = "cpu",
    codec: str | None = None,
    text: str | None = None,
    family: str | None = None,
    frames: Annotated[int | None, Parameter(show_default="81")] = None,
    references: Annotated[int | None, Parameter(show_default="4")] = None,
    control: str | None = None,
    metadata: Path | None = None,
    dtype: Annotated[Literal["float32", "bf16"] | None, Parameter(show_default="float32")] = None,
    tiling: Annotated[bool | None, Parameter(negative=(), show_default=False)] = None,
    pose: Annotated[str, Parameter(help=f"what finds the poses: {either(plugins.names('pose'))}.")] = "blazepose",
    pose_options: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, consume_multiple=True)] = (),
) -> None:
    """Turn videos of people into a data set for training.

    Decodes each video, finds the pose of one person, cuts one fixed square
    around them and stores latents and keypoints. OUT/prepare.jsonl says of
    every file what became of it. Run it again after an interruption, or when
    videos were added, moved or replaced: only what is new is prepared. Under
    torchrun each process prepares its share.

        entprog prepare videos/ more/dance.mp4 data/mine --sizes 32,64

    With --codec, the data set is for a pretrained model: windows of frames in a
    fixed rectangle, as latents of the model's own VAE, with captions (text files
    beside the videos, or metadata files of other trainers) and reference images.

        entprog prepare videos/ data/mine --codec MODEL --text MODEL --sizes 480x832

    Args:
        inputs: video files, and folders that are searched with all their subfolders.
        out: folder of the data set.
        sizes: sides in pixels to store latents for, multiples of 8; with --codec height x width; list them with commas.
        fps: frames a second of the clips.
        people: with several people in a picture: follow the largest, or drop those parts of the file.
        min_frames: drop clips that are shorter; with --codec, --frames says it.
        max_frames: read at most so many frames of each file.
        min_sharpness: drop clips that are more blurred, from 0 (drops none) to 1; sharp videos have 0.6 and more.
        holdout: share of the files kept from training, to judge it by; of a single file, its end.
        workers: processes that prepare files side by side.
        layout: of a public data set, whose published test set is kept from training then.
        device: where the networks run.
        codec: a model's folder in diffusers' layout, its VAE's folder, or a hub id.
        text: a model's folder or hub id, whose text encoders encode the captions.
        family: how the model's network is called, where that is a class of yours: "package.module:Class".
        frames: of a window; windows overlap by half.
        references: images of the same clip stored with each window.
        control: also store a control video: "draw" draws the poses; else the metadata's column that names one.
        metadata: a CSV, JSON or JSONL file with captions and control videos; by default those in the folders.
        dtype: of the VAE and the text encoders.
        tiling: encode large frames tile by tile, which takes less memory.
        pose_options: of the pose estimator, such as detector=yolox.onnx pose_model=dwpose.onnx.
    """
    with_codec = without_none(
        {"text": text, "family": family, "frames": frames, "references": references, "control": control,
         "metadata": metadata, "dtype": dtype, "tiling": tiling}
    )  # fmt: skip
    common: dict[str, Any] = {"people": people, "max_frames": max_frames, "holdout": holdout, "device": device}
    common["workers"] = workers
    common |= without_none({"min_sharpness": min_sharpness})
    common |= {"pose": pose, "pose_options": plugin_options("pose", pose, pose_options)}
    if layout != "folder":
        from entprog.prepare.layouts import find_layout

        common["layout"] = layout
        print("\n".join(find_layout(layout, inputs).lines))
    if codec is None:
        from entprog.prepare.folder import prepare_folder

        if with_codec:
            raise ConfigError([f"--{name} needs --codec FOLDER, the model that the data is for" for name in with_codec])
        least = 16 if min_frames is None else min_frames
        fps = 12.0 if fps is None else fps
        result = prepare_folder(inputs, out, sizes=integers("sizes", sizes), fps=fps, min_frames=least, **common)
    else:
        from entprog.tasks.pretrained.prepare_data import prepare_data

        if min_frames is not None:
            no_effect = f"--min-frames {min_frames} has no effect with --codec; --frames says how long windows are"
            raise ConfigError([no_effect])
        given = {"frames": 81, "references": 4, **with_codec}
        result = prepare_data(
            inputs, out, codec=codec, sizes=listed(sizes), fps=16.0 if fps is None else fps, **given, **common
        )
    from entprog.cli.prepared import say_prepared

    say_prepared(result)


def rank(
    recipe: Path,
    /,
    *,
    phase: str | None = None,
    preset: Preset = None,
    device: str | None = None,
    overrides: Overrides = (),
) -> None:
    """Score the blocks of a recipe's model without training, and print the ranking.

    Shows each block's importance with its standard error, beside what it costs
    to train it. Takes the recipe's keys as options, as `entprog train` does.

        entprog rank recipe.toml --phase pose --ranking.score gradient

    Args:
        recipe: the run's configuration, a TOML file.
        phase: only this phase of the recipe.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """
    config = read_config(recipe, pairs(overrides, preset=preset, device=device))
    from entprog.rank.show_ranking import rank as verb

    verb(config, phase=phase)


def plan(
    recipe: Path | None = None,
    /,
    *,
    device: str | None = None,
    memory: str | None = None,
    order: str | None = None,
    gpus: int | None = None,
    shard: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    replicate: int | None = None,
    json: Path | None = None,
    picture: Path | None = None,
    method: Method = None,
    preset: Preset = None,
    overrides: Overrides = (),
) -> None:
    """Say what a run would take: memory, time and what trains, stage by stage, without running it.

    Needs neither the data nor the weights nor the device. The ranking isn't
    known before the run, so each stage is shown twice: for blocks from the
    end of the network (suffix: the best case) and spread over it (the worst).

        entprog plan recipe.toml --device h100
        entprog plan recipes/wan-14b-80gb.toml --device a100 --picture plan.svg

    With --gpus also what each of several processes takes, one process a GPU:
    its samples, its bytes, and what it sends in a step.

        entprog plan recipe.toml --device h100 --gpus 8 --shard

    Args:
        recipe: the run's configuration, a TOML file; the demo's if left out.
        device: h200, h100, a100, l40s, 5090, 4090, 3090, rtx6000, a6000, t4 or cpu; what this machine has if left out.
        memory: the device's memory, such as 24GiB, where it differs.
        order: "suffix", "spread", or a file with the blocks' names, such as a run's scores.json.
        gpus: the processes of the run, one a GPU of that kind; each gets an equal share of a batch.
        shard: divide weights, gradients and optimizer states over them, block by block (FSDP2).
        replicate: with --shard, copies of the shards (HSDP): 2 of 8 GPUs are two copies over 4 each.
        json: write all figures to this file.
        picture: draw memory by stage into this file, an SVG.
    """
    from entprog.plan.planning import demo_recipe
    from entprog.plan.planning import plan as verb
    from entprog.plan.processes import Processes

    over = pairs(overrides, method=method, preset=preset)
    config = demo_recipe(over) if recipe is None else read_config(recipe, over, planned=True)
    if gpus is None and (shard or replicate is not None):
        raise ValueError(f"{'--shard' if shard else '--replicate'}: says how several processes share; give --gpus, too")
    processes = None if gpus is None else Processes(gpus, shard, 1 if replicate is None else replicate)
    verb(
        config, device=device or "", memory=memory or "", order=order or "", json_file=json, picture=picture,
        processes=processes,
    )  # fmt: skip


def train(
    recipe: Path | None = None,
    /,
    *,
    resume_from_checkpoint: str | None = None,
    keys: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    output_dir: str | None = None,
    method: Method = None,
    preset: Preset = None,
    label: str | None = None,
    device: str | None = None,
    overrides: Overrides = (),
) -> None:
    """Train by a recipe: rank the blocks of each phase, then train them as the schedule says.

    A recipe is a TOML file that says what differs from the defaults. All its
    keys with type, default and meaning, as a recipe to begin from:

        entprog train --keys

    Every key of a table is an option, too: its dotted name, then its value as
    in TOML, where lists need no brackets and text needs no quotes.

        entprog train recipe.toml --train.seed 3 --phases.video.steps 500

    Ctrl-C saves a checkpoint and stops; this goes on where it stopped:

        entprog train recipe.toml --resume-from-checkpoint latest

    Args:
        recipe: the run's configuration, a TOML file.
        resume_from_checkpoint: "latest", or a checkpoint folder of this run; goes on exactly there.
        keys: print all keys of a recipe and stop.
        output_dir: the run folder; it must not exist yet.
        label: name of the run in tables.
        device: "auto", "cpu", "cuda" or "cuda:N".
    """
    if keys:
        print(_all_keys(), end="")
        return
    if recipe is None:
        raise ConfigError(["train needs a RECIPE, a TOML file; entprog train --keys prints one to begin from"])
    over = pairs(overrides, output_dir=output_dir, method=method, preset=preset, label=label, device=device)
    config = read_config(recipe, over)
    command = ["entprog", "train", str(recipe), *(f"--{key}={value}" for key, value in over)]
    if resume_from_checkpoint is not None:
        command += ["--resume-from-checkpoint", resume_from_checkpoint]
    from entprog.train.run import train as verb

    verb(config, resume_from_checkpoint=resume_from_checkpoint, command=shlex.join(command))


def evaluate(
    run: Path,
    /,
    *,
    protocol: Literal["default", "disco"] | None = None,
    clips: int | None = None,
    frames: int | None = None,
    videos: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    scheduler: Literal["ddim", "ddpm", "dpm++"] | None = None,
    device: str = "",
    overrides: Overrides = (),
) -> None:
    """Measure a finished run on held-out clips, and write its metrics.json.

    Compares generated with true frames under a pinned protocol, which is
    printed beside the numbers, next to two baselines: copying the reference,
    and the mean frame. What is not given is as the run's own configuration says.

        entprog evaluate runs/mine --clips 64
        entprog evaluate runs/mine --protocol disco

    Args:
        run: a folder made by entprog train.
        protocol: compare as published: "disco" (TikTok, 256x256), with the row of the papers' tables.
        clips: held-out clips.
        frames: frames of each, from its first frame on.
        videos: clips that are written as mp4 and GIF.
        num_inference_steps: model calls a clip.
        guidance_scale: classifier-free guidance; 1 for none.
        seed: of the initial noise.
        scheduler: how noise is removed.
        device: "auto", "cpu", "cuda" or "cuda:N"; where the run trained if left out.
    """
    from entprog.evaluate.evaluation import evaluate as verb

    of_evaluate = {"clips": clips, "frames": frames, "videos": videos}
    of_sample = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "seed": seed}
    given = {f"evaluate.{key}": value for key, value in without_none(of_evaluate).items()}
    given |= {f"sample.{k}": value for k, value in without_none(of_sample | {"scheduler": scheduler}).items()}
    verb(run, overrides=dict(pairs(overrides)) | given, device=device, protocol=protocol or "")


def export(
    run: Path, out: Path, /, *,
    kind: Annotated[str, Parameter(name="--as")],
    dtype: Annotated[str | None, Parameter(show_default="float32")] = None,
    rank: int | None = None,
    copy: Annotated[bool, Parameter(negative=())] = False, push: str = "", weights: str = "auto",
) -> None:  # fmt: skip
    """Write a trained pretrained model as files that other tools load.

    OUT holds one of these, beside the pose adapters:

        diffusers  the whole pipeline, for from_pretrained
        delta      only the tensors that moved, for entprog.apply_delta
        comfy      their differences, which ComfyUI loads like a LoRA
        lora       for load_lora_weights of diffusers

        entprog export runs/mine out/mine --as comfy --dtype bf16

    Args:
        run: a folder made by entprog train with task = "pretrained".
        out: the new folder; only an earlier export there is replaced.
        kind: "diffusers", "delta", "comfy" or "lora".
        dtype: of comfy and lora: "float32", "bf16" or "fp16".
        rank: with --as lora, after training in full: the best approximation of this rank; its error is printed.
        copy: copy files instead of linking them to the run's.
        push: also upload to this repository of the hub, OWNER/NAME.
        weights: "model" (of the last step), "ema", or "auto": EMA weights where the run kept them.
    """
    from entprog.export import export as verb

    print("\n".join(verb(run, out, kind, dtype=dtype, rank=rank, copy=copy, push=push, weights=weights)))


def report(*runs: Annotated[Path, Parameter(required=True)], out: Path | None = None) -> None:
    """Make one page about one or several runs.

    A single HTML file that needs nothing outside it: importance of the blocks,
    which of them trained when, loss, memory, metrics and sample videos. Several
    runs are compared; runs that still train can be looked at, too.

        entprog report runs/full runs/progressive --out compare.html

    Args:
        runs: folders made by entprog train.
        out: the page; by default report.html in the run's folder, or in the folder that holds all runs.
    """
    from entprog.report import write_report

    print(write_report(runs, out))


def _all_keys() -> str:
    return (
        "# Every key of a recipe, at its default. Keep what you change; leave out the rest.\n"
        "# Each is an option of entprog train, too: --train.seed 3, --data.sizes 32,64\n\n" + printed_recipe()
    )
