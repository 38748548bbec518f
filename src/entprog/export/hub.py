"""Upload an export to the Hugging Face hub, with a model card."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from entprog.export.trained import Trained
from entprog.files import write_atomically

__all__ = ["check_push", "push"]


def check_push(repo: str) -> None:
    """Before any work: whether something can be uploaded at all.

    Raises:
        ValueError: no repository's name, offline, no token, or no huggingface_hub.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id
    except ImportError as error:
        raise ValueError(
            f'--push {repo}: huggingface_hub is not installed; pip install "entprog[pretrained]"'
        ) from error
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(f"--push {repo!r}: no repository's name; expected OWNER/NAME") from error
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        raise ValueError(f"--push {repo}: HF_HUB_OFFLINE is set; unset it, or leave out --push")
    if huggingface_hub.get_token() is None:
        raise ValueError(f"--push {repo}: no token; run hf auth login, or set HF_TOKEN")


def push(trained: Trained, out: Path, repo: str, kind: str) -> str:
    """Write the model card into an export's folder, upload it, and return its address.

    Raises:
        ValueError: the upload failed; the export itself is complete.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    (out / "README.md").unlink(missing_ok=True)  # a link to the base's own
    write_atomically(out / "README.md", card(trained, kind))
    api = HfApi()
    try:
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=str(out), commit_message=f"entprog export --as {kind}")
    except (HfHubHTTPError, OSError) as error:
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"--push {repo}: upload failed ({said}); the export is complete in {out}") from error
    return f"https://huggingface.co/{repo}"


def card(trained: Trained, kind: str) -> str:
    """The model card: base, licence, blocks that trained, metrics."""
    story, model = trained.story(), trained.config.model
    base = trained.changed.about["base"]
    head: dict[str, Any] = {"library_name": "diffusers", "tags": ["entprog", f"entprog-{kind}"]}
    if base == model.pretrained:  # a hub id
        head["base_model"] = base
    if licence := base_licence(trained):
        head["license"] = licence
    blocks = list(dict.fromkeys(name for stage in story["stages"] for name in stage.get("active", [])))
    lines = [
        *("---", *(f"{key}: {json.dumps(value)}" for key, value in head.items()), "---", ""),
        f"# {trained.config.label or trained.run.name}", "",
        f"{base}, fine-tuned with entprog {version('entprog')} (method {story['method']}), exported as {kind}.", "",
        f"- Network: {trained.component} ({trained.network}), weights' hash before training {trained.base_hash}",
        f"- Blocks that trained: {', '.join(blocks) or 'those that the method names'}",
        f"- Pose: {model.pose}; reference: {model.reference}", "",
    ]  # fmt: skip
    metrics = trained.run / "metrics.json"
    if metrics.is_file():
        lines += ["## Metrics", "", "```json", metrics.read_text(encoding="utf-8").strip(), "```", ""]
    return "\n".join(lines)


def base_licence(trained: Trained) -> str:
    """The licence that the base's card names; empty without."""
    from huggingface_hub.repocard import metadata_load

    for folder in (Path(trained.config.model.pretrained), trained.final):
        if (folder / "README.md").is_file():
            return str((metadata_load(folder / "README.md") or {}).get("license") or "")
    return ""
