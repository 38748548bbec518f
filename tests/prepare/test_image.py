"""Image files as a viewer shows them."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from entprog.prepare.image import read_image

PICTURE = np.linspace(0, 255, 40 * 60 * 3).astype(np.uint8).reshape(40, 60, 3)
GREY = np.linspace(0, 255, 40 * 60).astype(np.uint8).reshape(40, 60)


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return read_image(tmp_path / name)


def test_plain_pictures(tmp_path):
    for name in ("a.png", "a.bmp", "a.tif"):
        assert np.array_equal(save(tmp_path, Image.fromarray(PICTURE), name), PICTURE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = save(tmp_path, Image.fromarray(PICTURE), "a.png", exif=exif)
    turn = {1: PICTURE, 2: PICTURE[:, ::-1], 3: PICTURE[::-1, ::-1], 4: PICTURE[::-1]}
    upright = PICTURE.transpose(1, 0, 2)
    turn |= {5: upright, 6: upright[:, ::-1], 7: upright[::-1, ::-1], 8: upright[::-1]}
    assert np.array_equal(shown, turn[orientation])


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_alpha_over_grey(tmp_path, name):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 20:40], alpha[:, 40:] = 128, 255
    image = Image.fromarray(np.dstack([np.full((40, 60, 3), (0, 250, 0), np.uint8), alpha]))
    shown = save(tmp_path, image, name, **({"lossless": True, "exact": True} if name == "a.webp" else {}))
    assert np.abs(shown[:, 5].astype(int) - (128, 128, 128)).max() == 0
    assert np.abs(shown[:, 30].astype(int) - (64, 189, 64)).max() <= 1
    assert np.abs(shown[:, 50].astype(int) - (0, 250, 0)).max() == 0


def test_alpha_does_not_bleed_when_reduced(tmp_path):
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, :33], picture[:, 33:] = (0, 255, 0, 0), (128, 128, 128, 255)
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png", most=16).astype(int) - 128).max() <= 1


def test_sixteen_bits(tmp_path):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(save(tmp_path, deep, name), GREY[..., None].repeat(3, 2))
    assert np.array_equal(save(tmp_path, Image.fromarray(GREY.astype(np.float32) / 255), "a.tif")[..., 1], GREY)


def test_palette_with_a_transparent_colour_and_grey_with_alpha(tmp_path):
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([0, 255, 0, 200, 60, 60])
    palette.paste(1, (20, 0, 40, 40))
    shown = save(tmp_path, palette, "a.png", transparency=0)
    assert shown[5, 5].tolist() == [128] * 3 and shown[5, 30].tolist() == [200, 60, 60]
    shown = save(tmp_path, palette, "a.gif", transparency=0)
    assert shown[5, 5].tolist() == [128] * 3 and shown[5, 30].tolist() == [200, 60, 60]
    shown = save(tmp_path, Image.fromarray(np.dstack([GREY, np.full_like(GREY, 0)]), "LA"), "b.png")
    assert (shown == 128).all()
    keyed = Image.fromarray(np.full((8, 8, 3), (1, 2, 3), np.uint8))
    assert (save(tmp_path, keyed, "c.png", transparency=(1, 2, 3)) == 128).all()


def test_other_modes(tmp_path):
    bits = Image.fromarray(GREY).convert("1")
    assert set(np.unique(save(tmp_path, bits, "a.png"))) == {0, 255}
    shown = save(tmp_path, Image.fromarray(PICTURE).convert("CMYK"), "a.jpg", quality=100)
    assert np.abs(shown.astype(int) - PICTURE).mean() < 4
    assert np.abs(save(tmp_path, Image.fromarray(PICTURE).convert("YCbCr"), "b.jpg", quality=100) - PICTURE).shape


def wide_profile():
    """A profile whose green is stronger than sRGB's: LittleCMS makes one from its built-in Lab and XYZ spaces."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()


def test_icc_profiles(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = save(tmp_path, Image.fromarray(PICTURE), "a.png", icc_profile=srgb)
    assert np.abs(same.astype(int) - PICTURE).max() <= 1
    for profile in (b"no profile", srgb[:200]):
        assert np.array_equal(save(tmp_path, Image.fromarray(PICTURE), "a.png", icc_profile=profile), PICTURE)
    grey = save(tmp_path, Image.fromarray(GREY), "a.png", icc_profile=srgb)  # a profile for RGB in a grey picture
    assert np.array_equal(grey[..., 0], GREY)
    # the red of sRGB replaced by a weaker one: the same values then are a weaker red
    data = bytearray(srgb)
    place = data.index(b"rXYZ")
    offset = int.from_bytes(data[place + 4 : place + 8], "big") + 8
    for axis in range(3):
        at = offset + 4 * axis
        value = int.from_bytes(data[at : at + 4], "big", signed=True)
        data[at : at + 4] = (value // 2).to_bytes(4, "big", signed=True)
    shown = save(tmp_path, Image.fromarray(np.full((8, 8, 3), (200, 0, 0), np.uint8)), "a.png", icc_profile=bytes(data))
    assert 100 < shown[0, 0, 0] < 180


def test_large_pictures_are_reduced(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", most=30).shape == (20, 30, 3)
    assert read_image(tmp_path / "a.png", most=None).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no image", "not an image; give a PNG, JPEG or WebP file"),
        (b"", "not an image"),
        ("cut", "cannot be read .*; give a whole image file"),
    ],
)
def test_what_is_no_image(tmp_path, data, message):
    if data == "cut":
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
        data = buffer.getvalue()[:5000]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=f"^photo = '.*a.png': {message}"):
        read_image(tmp_path / "a.png", "photo")
    with pytest.raises(ValueError, match=r"reference = .*none.png': cannot be read"):
        read_image(tmp_path / "none.png")


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too many pixels"):
        read_image(tmp_path / "a.png")
