"""`--push`: with a stub for the hub."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from entprog.export import export
from entprog.export.hub import check_push
from entprog.train.run import train
from pretrained_runs import Variant, recipe
from tiny_pipelines import saved


class Hub:
    """What was asked of the hub."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012 (one list for all)
    error: Exception | None = None

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append(("create", {"repo": repo, **options}))

    def upload_folder(self, **options: Any) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(Hub, "calls", [])
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return Hub


def test_an_export_with_its_card(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(shutil.copytree(saved("wan-2.1-t2v"), tmp_path / "base"))
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\nThe base.\n")
    made = Variant.make("wan-2.1-t2v", tmp_path)
    run = train(recipe(Variant(made.name, base, made.data, made.frames, made.sides), tmp_path / "run"))
    (run / "metrics.json").write_text('{"psnr": 21.5}\n')
    lines = export(run, tmp_path / "out", "delta", push="me/mine")
    assert lines[-1] == "https://huggingface.co/me/mine"
    created, uploaded = hub.calls
    assert created == ("create", {"repo": "me/mine", "exist_ok": True})
    assert uploaded[1]["folder_path"] == str(tmp_path / "out") and uploaded[1]["repo_id"] == "me/mine"
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ('license: "apache-2.0"', "blocks.", "entprog", "21.5", "method progressive", "exported as delta"):
        assert words in card
    assert str(tmp_path) not in card
    export(run, tmp_path / "whole", "diffusers", push="me/mine")  # whose README.md is linked to the base's
    assert (base / "README.md").read_text().endswith("The base.\n")

    monkeypatch.setattr(Hub, "error", OSError("no route\nto host"))
    with pytest.raises(ValueError, match=r"upload failed \(no route\); the export is complete in"):
        export(run, tmp_path / "out", "delta", push="me/mine")
    assert (tmp_path / "out" / "delta.safetensors").is_file()


def test_what_keeps_from_pushing(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected OWNER/NAME"):
        check_push("a/b/c")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(ValueError, match="no token; run hf auth login"):
        export(tmp_path / "nowhere", tmp_path / "out", "delta", push="me/mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        export(tmp_path / "nowhere", tmp_path / "out", "delta", push="me/mine")
    assert not hub.calls and not (tmp_path / "out").exists()
