"""Slow reference of the meter: peak bytes as torch's allocators report them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from entprog.profiling.ledger import plain


def profiled_peak(step: Callable[[], object], existing: Iterable[Tensor]) -> int:
    """Run `step` on the CPU under the profiler; the largest sum of bytes that were allocated at one time.

    Every allocation counts, also those inside kernels.

    Args:
        existing: tensors that existed before (weights, states, inputs), which the profiler does not see.
    """
    sizes = {}
    for tensor in existing:
        for part in plain(tensor):
            storage = part.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    results = profiler.profiler.kineto_results  # type: ignore[union-attr]
    events = [(event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]"]
    total = highest = sum(sizes.values())
    for _, size in sorted(events, key=lambda event: event[0]):
        total += size
        highest = max(highest, total)
    return highest


def cuda_peak(step: Callable[[], object]) -> int:
    """Run `step`; the largest number of bytes that torch's CUDA allocator had allocated in total."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()
