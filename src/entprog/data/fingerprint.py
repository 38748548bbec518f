"""What a run can see of a data set, as one hash, and by clip to say what changed.

Neither the folder's place nor how clips are spread over shards counts.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

__all__ = ["changes", "clips_of", "fingerprint", "record_of"]

PLACES = ("shard", "place", "source")
"""Columns of the index that say where something lies; `start` too, in format 1."""
ABOUT = ("format", "codec", "codec_hash", "sizes", "fps", "frames", "text", "stored")
"""Keys of dataset.json that say what the tensors are; of format 1 `frames` is only a sum."""
NAMED = 3
"""Clips that a message names; the others are counted."""


def fingerprint(about: Mapping[str, Any], rows: Sequence[Any]) -> str:
    """A hash of the index, in order, and of what dataset.json says of the tensors."""
    own = {key: about[key] for key in ABOUT if key in about}
    digest = sha256(json.dumps(own, sort_keys=True).encode())
    for row in rows:
        digest.update(json.dumps(_seen(row), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def clips_of(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """By clip its split (or both), its frames or windows, the content of its file, and a hash of its rows."""
    splits: dict[str, set[str]] = {}
    frames: dict[str, int] = {}
    contents: dict[str, str] = {}
    digests: dict[str, Any] = {}
    for row in rows:
        splits.setdefault(row.clip, set()).add(row.split)
        frames[row.clip] = frames.get(row.clip, 0) + row.frames
        contents[row.clip] = row.content
        digests.setdefault(row.clip, sha256()).update(json.dumps(_seen(row), sort_keys=True).encode())
    return {
        clip: ["+".join(sorted(splits[clip])), frames[clip], contents[clip][:16], digests[clip].hexdigest()[:16]]
        for clip in splits
    }


def record_of(data: Any) -> dict[str, Any]:
    """What a run keeps of its data set, `Shards` or `Windows`."""
    by_clip = clips_of(data.rows)
    codec = data.about.get("codec")
    return {
        "path": str(data.folder),
        "fingerprint": data.fingerprint,
        "fps": float(data.about["fps"]),
        "codec": codec.get("class", "") if isinstance(codec, Mapping) else codec,
        "clips": len(by_clip),
        "holdout": sum("holdout" in split for split, *_ in by_clip.values()),
        "by_clip": by_clip,
    }


def changes(before: Mapping[str, Sequence[Any]], now: Mapping[str, Sequence[Any]]) -> str:
    """How two results of `clips_of` differ, in words: clips added, removed, of another split, changed."""
    both = [clip for clip in before if clip in now]
    split = [clip for clip in both if before[clip][0] != now[clip][0]]
    kinds = {
        "added": [clip for clip in now if clip not in before],
        "removed": [clip for clip in before if clip not in now],
        "of another split": split,
        "changed": [clip for clip in both if clip not in split and list(before[clip]) != list(now[clip])],
    }
    said = [f"{len(clips)} {kind} ({_named(clips)})" for kind, clips in kinds.items() if clips]
    if not said and list(before) != list(now):
        said = ["the clips are in another order"]
    return ", ".join(said) or "codec, sizes or frame rate differ"


def _named(clips: list[str]) -> str:
    more = f" and {len(clips) - NAMED} more" if len(clips) > NAMED else ""
    return ", ".join(clips[:NAMED]) + more


def _seen(row: Any) -> dict[str, Any]:
    seen = {key: value for key, value in asdict(row).items() if key not in PLACES}
    if not hasattr(row, "place"):  # format 1: the first row in the shard
        del seen["start"]
    if not row.content:
        seen["content"] = row.source if row.source.startswith("rendered:") else ""
    return seen
