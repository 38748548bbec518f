"""Open the data set that a configuration names: a prepared folder, the shipped clips, or rendered people."""

from importlib.resources import files
from pathlib import Path

from entprog.codecs.base import Codec
from entprog.codecs.pca import PatchCodec
from entprog.config.schema import DataConfig
from entprog.data.rendered import RenderedPeople, render_data_set
from entprog.data.shards import Shards
from entprog.files import cache_folder


def shipped_clips() -> Path:
    """The folder of the real videos that the package ships as latents and keypoints (NOTICE names each)."""
    return Path(str(files("entprog") / "assets" / "clips"))


def rendered_people(config: DataConfig) -> RenderedPeople:
    """What to render for a configuration that names neither a folder nor the shipped clips.

    Raises:
        ValueError: `config.domain` is "clips".
    """
    if config.domain == "clips":
        raise ValueError('data.domain = "clips": these are shipped videos; choose a domain that can be rendered')
    return RenderedPeople(
        domain=config.domain,
        subjects=config.subjects,
        clips_per_subject=config.clips_per_subject,
        holdout=config.holdout,
        frames=config.frames,
        sizes=tuple(config.sizes),
        seed=config.seed,
    )


def open_data(config: DataConfig, codec: Codec | None = None, *, progress: bool = True) -> Shards:
    """The data set of a run; people are rendered at first use.

    Raises:
        ValueError: the folder is not a prepared data set, is empty, or holds latents of another codec.
    """
    codec = codec or PatchCodec.default()
    if config.path:
        shards = Shards(config.path)
    elif config.domain == "clips":
        shards = Shards(shipped_clips())
    else:
        spec = rendered_people(config)
        cache = Path(config.cache) if config.cache else cache_folder()
        shards = Shards(render_data_set(spec, cache, codec, workers=config.workers, progress=progress))
    if shards.about.get("codec_hash") != codec.hash:
        raise ValueError(
            f"data.path = {str(shards.folder)!r}: its latents were made by codec {shards.about.get('codec_hash')}, "
            f"this version has {codec.hash}; prepare the videos again"
        )
    return shards
