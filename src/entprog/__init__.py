"""Fine-tune video diffusion models on people: ranked, scheduled partial training.

Three faces, one core:

* library: `attach(...)` gives an object whose `with method.step(i):` goes around the step of any PyTorch loop;
* program: `entprog prepare | plan | rank | train | sample | evaluate | export | report | demo`;
* human video: rendered people out of the box, folders of real videos, reference image + poses -> video.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from entprog.core.blocks import Blocks, discover_blocks
    from entprog.core.freeze import Freezer, param_groups
    from entprog.core.types import Draw, Ranking, Scores, Workload
    from entprog.export import apply_delta
    from entprog.integrations.custom_loop import attach
    from entprog.integrations.diffusers_loop import make_probe
    from entprog.plugins import load
    from entprog.tasks.pretrained.loaded_adapters import load_adapters

__all__ = [
    "Blocks",
    "Draw",
    "Freezer",
    "Ranking",
    "Scores",
    "Workload",
    "apply_delta",
    "attach",
    "discover_blocks",
    "load",
    "load_adapters",
    "make_probe",
    "param_groups",
]

_HOMES = {
    "apply_delta": "entprog.export",
    "attach": "entprog.integrations.custom_loop",
    "Blocks": "entprog.core.blocks",
    "make_probe": "entprog.integrations.diffusers_loop",
    "discover_blocks": "entprog.core.blocks",
    "Freezer": "entprog.core.freeze",
    "param_groups": "entprog.core.freeze",
    "Draw": "entprog.core.types",
    "Ranking": "entprog.core.types",
    "Scores": "entprog.core.types",
    "Workload": "entprog.core.types",
    "load": "entprog.plugins",
    "load_adapters": "entprog.tasks.pretrained.loaded_adapters",
}


def __getattr__(name: str) -> Any:
    """Public names are imported at first use, so that `import entprog` and `entprog --help` stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'entprog' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
