"""Images: every mode of PNG and JPEG has its right value or an error, and no other decoder is ever started."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.datasets.images import check_principal_point, find_image, image_size, read_image
from core.errors import UserError

RAMP = np.tile(np.arange(256, dtype=np.uint8), (4, 1))  # [4, 256]
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 40)], 2)


def saved(path: Path, image: Image.Image, **options: object) -> np.ndarray:
    image.save(path, **options)
    read = read_image(path)
    assert read.dtype == np.uint8 and read.shape == (image.height, image.width, 3)
    return read


def png(path: Path, width: int, height: int, *, bits: int, kind: int, rows: bytes) -> Path:
    """A PNG written by hand, for what Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_sixteen_bits_of_grey_are_divided_by_257(tmp_path: Path) -> None:
    values = np.tile(np.linspace(0, 65535, 64).astype("u2"), (32, 1))
    read = saved(tmp_path / "g.png", Image.fromarray(values))
    np.testing.assert_array_equal(
        read, np.round(values / 257).astype(np.uint8)[..., None].repeat(3, 2)
    )
    assert abs(read.mean() - 127.5) < 0.5
    wide = RAMP.astype("u2") * 257
    np.testing.assert_array_equal(saved(tmp_path / "w.png", Image.fromarray(wide))[..., 1], RAMP)


def test_sixteen_bits_of_colour_keep_their_high_byte(tmp_path: Path) -> None:
    row = b"\0" + np.array([[0, 65535, 257 * 100]], ">u2").tobytes()
    path = png(tmp_path / "c.png", 1, 1, bits=16, kind=2, rows=row)
    assert read_image(path).tolist() == [[[0, 255, 100]]]


@pytest.mark.parametrize(("bits", "packed"), [(1, b"\0\x40"), (2, b"\0\x1b"), (4, b"\0\x0f\x50")])
def test_few_bits_of_grey_reach_white(tmp_path: Path, bits: int, packed: bytes) -> None:
    count = {1: 2, 2: 4, 4: 3}[bits]
    read = read_image(png(tmp_path / "f.png", count, 1, bits=bits, kind=0, rows=packed))
    expected = {1: [0, 255], 2: [0, 85, 170, 255], 4: [0, 255, 85]}[bits]
    assert read[0, :, 0].tolist() == expected


def test_modes_that_mean_rgb_are_read_as_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(COLOURS)
    np.testing.assert_array_equal(saved(tmp_path / "rgb.png", rgb), COLOURS)
    grey = saved(tmp_path / "l.png", Image.fromarray(RAMP))
    np.testing.assert_array_equal(grey, RAMP[..., None].repeat(3, 2))
    palette = Image.fromarray(RAMP % 2).convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    read = saved(tmp_path / "p.png", palette)
    assert read[0, :2].tolist() == [[10, 20, 30], [200, 100, 50]]
    opaque = np.dstack([COLOURS, np.full_like(RAMP, 255)])
    np.testing.assert_array_equal(saved(tmp_path / "a.png", Image.fromarray(opaque)), COLOURS)
    cmyk = saved(tmp_path / "cmyk.jpg", rgb.convert("CMYK"), quality=95)
    assert np.abs(cmyk.astype(int) - COLOURS).mean() < 4


def test_transparent_pixels_have_no_colour(tmp_path: Path) -> None:
    clear = np.dstack([COLOURS, RAMP])
    with pytest.raises(UserError, match=r"a\.png: .*transparent pixels.*without an alpha channel"):
        saved(tmp_path / "a.png", Image.fromarray(clear))
    with pytest.raises(UserError, match="transparent"):
        saved(tmp_path / "k.png", Image.fromarray(RAMP), transparency=7)


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "PPM", "WEBP", "ICO"])
def test_other_formats_are_refused_whatever_their_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "000000.png"
    Image.fromarray(COLOURS).save(path, kind)
    with pytest.raises(UserError, match="it is no PNG or JPEG"):
        read_image(path)


def test_postscript_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "000000.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 124 37\n%%EndComments\n")
    with pytest.raises(UserError, match=r"000000\.png: cannot decode.*no PNG or JPEG"):
        read_image(path)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("width", "height"), [(9000, 9000), (30000, 30000), (2**31 - 1, 2**31 - 1)]
)
def test_bombs_are_named_before_they_are_unpacked(tmp_path: Path, width: int, height: int) -> None:
    path = png(tmp_path / "bomb.png", width, height, bits=8, kind=0, rows=b"")
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=r"bomb\.png: cannot decode this image"):
            read(path)


def test_damaged_images_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(COLOURS).save(path)
    whole = path.read_bytes()
    for cut in (0, 1, 3, 60, len(whole) // 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"x\.jpg: cannot decode this image.*unpack it again"):
            read_image(path)
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "none.png")


def test_an_image_is_of_the_calibrated_size(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(COLOURS).save(path)
    assert read_image(path, (256, 4)).shape == (4, 256, 3)
    with pytest.raises(UserError, match=r"has 256 x 4 px; the calibration is for 1600 x 900"):
        read_image(path, (1600, 900))


@pytest.mark.parametrize("name", ["7.png", "7.PNG", "7.jpg", "7.JPG", "7.jpeg", "7.JPEG"])
def test_suffixes_in_any_case(tmp_path: Path, name: str) -> None:
    assert find_image(tmp_path, "7", ".jpg") == tmp_path / "7.jpg"
    (tmp_path / name).touch()
    assert find_image(tmp_path, "7") == tmp_path / name


def test_a_principal_point_lies_near_the_middle() -> None:
    kitti = np.array([[718.856, 0, 607.1928], [0, 718.856, 185.2157], [0, 0, 1]])
    check_principal_point(kitti, (1241, 376), Path("a.png"), Path("calib.txt"))
    for size in ((620, 188), (1080, 327), (1408, 427), (1241, 700)):
        with pytest.raises(UserError, match=r"a\.png: .* px, but .*calib\.txt is \(607, 185\)"):
            check_principal_point(kitti, size, Path("a.png"), Path("calib.txt"))
