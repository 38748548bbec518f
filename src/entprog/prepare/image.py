"""Image files -> the picture that a viewer shows, uint8 sRGB."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

__all__ = ["GREY", "over_grey", "read_image"]

GREY = 128
"""Behind what is transparent."""


def read_image(path: str | Path, field: str = "reference", most: int | None = 1536) -> np.ndarray:
    """The picture of a file as uint8 [H, W, 3]: turned by its EXIF, 16 bits scaled to 8, HDR as SDR, sRGB, over grey.

    Args:
        field: name of the setting, for messages.
        most: longest side in pixels; larger pictures are reduced. None leaves them.

    Raises:
        ValueError: no picture, or a damaged one.
    """
    path = Path(path)
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(_shown(path, opened))
            picture, profile = _eight_bits(image), image.info.get("icc_profile")
            if "A" in picture.getbands() and picture.mode != "LAB":
                # over grey before it is reduced, so that transparent colours do not run into the edges
                return np.array(_reduced(Image.fromarray(_srgb(picture, profile)), most))
            return _srgb(_reduced(picture, most), profile)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else "too many pixels"
        raise ValueError(f"{field} = {str(path)!r}: {reason}; give a PNG, JPEG or WebP file") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{field} = {str(path)!r}: cannot be read ({error}); give a whole image file") from error


def _shown(path: Path, opened: Image.Image) -> Image.Image:
    """The picture as Pillow reads it, or in SDR where its file says that it is HDR."""
    from entprog.prepare.hdr_image import hdr_picture  # which imports this module

    found = hdr_picture(path, opened.format)
    if found is None:
        return opened
    image = Image.fromarray(found)
    image.info["exif"] = opened.getexif().tobytes()
    return image


def over_grey(picture: np.ndarray) -> np.ndarray:
    """uint8 RGBA [H, W, 4] -> RGB over grey."""
    alpha = picture[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(picture[..., :3])
    weight = alpha.astype(np.uint16)
    mixed = picture[..., :3].astype(np.uint16) * weight + GREY * (255 - weight)
    return ((mixed + 127) // 255).astype(np.uint8)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture in a mode of 8 bits a channel, alpha kept where it has any."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, np.float64)
        if image.mode == "F":
            values = values * 255 if values.max(initial=0) <= 1 else values
        elif image.mode != "I" or values.max(initial=0) > 255:
            values = values / 257
        return Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    if image.mode in ("PA", "La", "RGBa") or (image.mode != "RGBA" and "transparency" in image.info):
        return image.convert("RGBA")
    if image.mode in ("P", "1"):
        return image.convert("RGB")
    return image


def _reduced(image: Image.Image, most: int | None) -> Image.Image:
    """At most `most` pixels a side."""
    if most is None or max(image.size) <= most:
        return image
    factor = most / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def _srgb(image: Image.Image, profile: bytes | None) -> np.ndarray:
    """RGB in sRGB, over grey. A profile that does not fit the picture or is damaged is left out, as viewers do."""
    alpha = image.getchannel("A") if "A" in image.getbands() and image.mode != "LAB" else None
    if profile:
        base = image.convert("RGB" if image.mode == "RGBA" else "L" if image.mode == "LA" else image.mode)
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            made = ImageCms.profileToProfile(base, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            image = made if made is not None else image
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    picture = np.asarray(image.convert("RGB"))
    if alpha is None:
        return np.array(picture)
    return over_grey(np.dstack([picture, np.asarray(alpha)]))
