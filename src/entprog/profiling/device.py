"""The device and the precision of a run."""

import torch

__all__ = ["pick_device", "pick_precision"]


def pick_device(name: str) -> torch.device:
    """The device that `device = name` means; "auto" is the first CUDA device where there is one.

    Raises:
        ValueError: no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device = {name!r}: choose auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = {name!r}: no CUDA device here; choose cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device = {name!r}: CUDA devices here: {torch.cuda.device_count()}, counted from 0")
    return device


def pick_precision(name: str, device: torch.device) -> str:
    """What `train.mixed_precision = name` means on a device: "auto" is bf16 where the processor has it, else "no".

    Raises:
        ValueError: fp16 on a CPU.
    """
    if name == "fp16" and device.type == "cpu":
        raise ValueError("train.mixed_precision = 'fp16': only on a CUDA device; choose bf16 or no")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "no"
