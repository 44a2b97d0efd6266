"""Images as people have them."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from open4m import modalities
from open4m.types import Open4MError

RGB = modalities.get("rgb")


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def test_a_photograph_taken_upright_is_read_upright():
    sideways = Image.fromarray(np.repeat(np.arange(20, dtype=np.uint8)[None], 10, 0) * 12).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to show
    value = RGB.read(encoded(sideways, format="JPEG", exif=exif))
    assert value.shape == (20, 10, 3)
    assert value[0].mean() < value[-1].mean()  # what was left is now on top


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    value = RGB.read(encoded(Image.fromarray(ramp), format="PNG"))
    assert len(np.unique(value)) == 256
    assert np.abs(value[..., 0].astype(int) - ramp // 256).max() == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_common_formats_are_read(kind):
    assert RGB.read(encoded(Image.new("RGB", (8, 6), "red"), format=kind)).shape == (6, 8, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_color_modes_become_rgb(mode):
    value = RGB.convert(Image.new("RGB", (4, 4), "white").convert(mode))
    assert value.shape == (4, 4, 3)
    assert value.min() > 250


@pytest.mark.parametrize("side", [9_000, 20_000])  # more than we decode; more than Pillow opens
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(side):
    small = encoded(Image.new("1", (1, 1)), format="PNG")
    header = b"IHDR" + struct.pack(">2I", side, side) + small[24:29]  # the size that it claims to have
    bomb = small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:]
    if side * side < 2 * Image.MAX_IMAGE_PIXELS:
        assert Image.open(io.BytesIO(bomb)).size == (side, side)
    with pytest.raises(Open4MError, match=r"rgb: .*pixels"):
        RGB.read(bomb)


def test_what_is_no_image_says_which_formats_are():
    with pytest.raises(Open4MError, match=r"rgb: not a readable image .*PNG, JPEG"):
        RGB.read(b"no image at all")


def test_gray_arrays_and_wide_integers_are_not_black():
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
    for value in (gray, gray[..., None], gray / np.float32(255)):
        assert np.array_equal(RGB.convert(value), np.repeat(gray[..., None], 3, 2))
    for mode, number in (("F", 0.6), ("F", 200), ("I", 200), ("I", 200 * 256), ("I", 0)):  # of 8, 16 or 32 bits?
        with pytest.raises(Open4MError, match=f"mode {mode}, whose range is not known"):
            RGB.convert(Image.new(mode, (2, 2), number))


def test_a_dark_picture_of_sixteen_bits_stays_dark():
    """The scale is that of the file, not of its own lightest pixel."""
    levels = np.array([[200, 255], [0, 3]], np.uint16)
    for picture in (Image.fromarray(levels), Image.open(io.BytesIO(encoded(Image.fromarray(levels), format="PNG")))):
        assert RGB.convert(picture).max() == 0


def test_what_is_transparent_shows_white():
    """A logo without a background is no black rectangle, whichever way it is transparent."""
    colors = np.full((2, 2, 4), (10, 20, 30, 0), np.uint8)
    colors[0, 0, 3], colors[0, 1, 3] = 255, 51
    expected = [[[10, 20, 30], [206, 208, 210]], [[255] * 3] * 2]  # 51 is a fifth of 255
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    palette.putpixel((0, 0), 0)
    palette.info["transparency"] = 1
    for value in (colors, colors / 255.0, Image.fromarray(colors)):
        np.testing.assert_allclose(RGB.convert(value), expected, atol=1)
        assert (RGB.convert(value)[0, 0] == (10, 20, 30)).all()
    for picture in (palette, Image.open(io.BytesIO(encoded(palette, format="PNG")))):
        assert RGB.convert(picture)[..., 0].tolist() == [[9, 255], [255, 255]]
    assert RGB.read(encoded(Image.new("LA", (1, 1), (40, 0)), format="PNG")).tolist() == [[[255] * 3]]
    assert RGB.read(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), format="PNG", transparency=(1, 2, 3))).min() == 255


def test_pixels_are_normalized_exactly_channel_by_channel():
    modality = modalities.get("rgb_pixels")
    value = np.arange(3 * 256, dtype=np.uint16).reshape(16, 16, 3).astype(np.uint8)
    scaled = value.astype(np.float32) / 255
    expected = ((scaled - np.float32(modality.mean)) / np.float32(modality.std)).transpose(2, 0, 1)
    found = modality.pixels(value)
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous
