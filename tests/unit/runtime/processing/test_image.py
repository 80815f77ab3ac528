from __future__ import annotations

import io
import json
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InvalidRequest, PackageError, TooLarge
from mlserve_cli.runtime.processing import image as images
from mlserve_cli.runtime.processing.declaration import ImageInput

Image = pytest.importorskip("PIL.Image")


def processor(make: Any, *, datatype: str = "FP32", size: int = 4, **declared: Any) -> Any:
    facts: dict[str, Any] = {"width": size, "height": size, "channels": 1} | declared
    channels, width, height = facts["channels"], facts["width"], facts["height"]
    shape: tuple[Any, ...] = ("batch", channels, height, width)
    if facts.get("layout") == "NHWC":
        shape = ("batch", height, width, channels)
    return make((("x", datatype, shape),), input=ImageInput(tensor="x", **facts))


def encoded(picture: Any, kind: str = "PNG", **options: Any) -> bytes:
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(np.asarray(picture))
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def grey(size: int = 4, level: int = 255) -> Any:
    return np.full((size, size), level, np.uint8)


def run(found: Any, *files: bytes) -> Any:
    rows = [row for file in files for row in found.rows(file, "image/png")]
    return found.tensors(rows)["x"]


def test_a_picture_is_scaled_and_normalized_a_channel(make: Any) -> None:
    found = processor(make, channels=3, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))
    picture = np.dstack([grey(level=255), grey(level=51), grey(level=0)])
    batch = run(found, encoded(picture))
    assert batch.dtype == np.float32
    assert batch.shape == (1, 3, 4, 4)
    np.testing.assert_allclose(batch[0, :, 0, 0], [1.0, -0.05, 0.0], atol=1e-7)


def test_the_layout_may_put_channels_last(make: Any) -> None:
    found = processor(make, channels=3, layout="NHWC", width=2, height=3)
    assert run(found, encoded(np.zeros((3, 2, 3), np.uint8))).shape == (1, 3, 2, 3)


def test_integers_pass_as_they_are(make: Any) -> None:
    batch = run(processor(make, datatype="UINT8", scale=1.0), encoded(grey(level=77)))
    assert batch.dtype == np.uint8
    assert (batch == 77).all()


def test_several_pictures_are_rows_of_one_tensor(make: Any) -> None:
    batch = run(processor(make), encoded(grey(level=0)), encoded(grey(level=255)))
    assert batch[:, 0, 0, 0].tolist() == [0.0, 1.0]


def test_exif_orientation_turns_the_picture_upright(make: Any) -> None:
    upright = np.zeros((4, 4), np.uint8)
    upright[0, :] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half
    file = encoded(upright[::-1, ::-1], exif=exif)
    np.testing.assert_array_equal(run(processor(make), file)[0, 0] * 255, upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(make: Any, mode: str) -> None:
    if mode == "P":
        picture = Image.fromarray(grey(level=0)).convert("P")
        file = encoded(picture, transparency=0)
    else:
        file = encoded(Image.new(mode, (4, 4), (0, 0, 0, 0) if mode == "RGBA" else (0, 0)))
    assert (run(processor(make), file) == 1.0).all()


def test_greys_of_16_bits_keep_their_brightness(make: Any) -> None:
    file = encoded(np.full((4, 4), 0x8080, np.uint16))
    np.testing.assert_allclose(run(processor(make), file), 128 / 255, atol=1e-6)


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_floating_point_pictures_are_read(make: Any, peak: float) -> None:
    file = encoded(Image.fromarray(np.full((4, 4), peak, np.float32)), "TIFF")
    np.testing.assert_allclose(run(processor(make), file), 1.0)


@pytest.mark.parametrize("mode", ["1", "CMYK", "RGB", "L"])
def test_other_modes_are_converted(make: Any, mode: str) -> None:
    picture = Image.fromarray(grey()).convert("RGB").convert(mode)
    assert (run(processor(make), encoded(picture, "TIFF")) == 1.0).all()


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_is_read(make: Any, kind: str) -> None:
    batch = run(processor(make), encoded(grey(level=200), kind))
    np.testing.assert_allclose(batch, 200 / 255, atol=0.02)


def test_light_strokes_are_inverted_before_padding(make: Any) -> None:
    found = processor(make, resize="contain", invert=True, pad=0)
    batch = run(found, encoded(np.zeros((2, 4), np.uint8)))[0, 0]
    assert batch[0].tolist() == [0.0] * 4
    assert batch[1].tolist() == [1.0] * 4


def test_stretch_cover_and_contain_differ_as_they_say(make: Any) -> None:
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 255

    def column(resize: str, **more: Any) -> list[float]:
        batch = run(processor(make, resize=resize, **more), encoded(wide))
        return [round(float(value), 2) for value in batch[0, 0, 1]]

    assert column("cover") == [1.0] * 4
    assert column("stretch")[0] < 0.5 < column("stretch")[1]
    assert run(processor(make, resize="contain", pad=51), encoded(wide))[0, 0, 0, 0] == (
        pytest.approx(0.2)
    )


def test_a_thin_strip_is_cropped_without_being_blown_up(make: Any) -> None:
    strip = encoded(np.full((1, 60_000), 255, np.uint8))
    for resize in ("cover", "contain", "stretch"):
        assert run(processor(make, resize=resize), strip).shape == (1, 1, 4, 4)


def header_of(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_000, 10_000, 14_000, 30_000])
def test_a_bomb_is_refused_before_it_is_decoded(
    make: Any, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(InvalidRequest, match="50 million pixels"):
        run(processor(make), header_of(side, side))


WHOLE = encoded(np.arange(4096, dtype=np.uint8).reshape(64, 64))


@pytest.mark.parametrize(
    "file",
    [b"\0", b"GIF89a", WHOLE[:60], WHOLE[:-30], header_of(64, 64), b"<svg/>", b"%!PS-Adobe"],
)
def test_a_damaged_picture_is_one_sentence(make: Any, file: bytes) -> None:
    with pytest.raises(InvalidRequest, match="row 0: the image is damaged"):
        run(processor(make), file)


@pytest.mark.parametrize("position", range(8, len(WHOLE), 97))
def test_a_flipped_byte_is_refused_or_harmless(make: Any, position: int) -> None:
    changed = bytearray(WHOLE)
    changed[position] ^= 0xFF
    with suppress(InvalidRequest):
        assert run(processor(make, size=64), bytes(changed)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("row", [5, None, {"picture": "x"}, "%%%", {"image": 3}, "a"])
def test_a_row_that_is_no_picture_is_refused(make: Any, row: Any) -> None:
    with pytest.raises(InvalidRequest, match="row 0"):
        processor(make).tensors([row])


def test_a_data_url_is_base64_too(make: Any) -> None:
    import base64

    text = "data:image/png;base64," + base64.b64encode(encoded(grey())).decode()
    assert (processor(make).tensors([{"image": text}])["x"] == 1.0).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("invert", [False, True])
def test_a_row_turns_back_into_its_picture(
    make: Any, channels: int, layout: str, invert: bool
) -> None:
    found = processor(
        make, channels=channels, layout=layout, invert=invert, mean=(0.4,), std=(0.3,), size=8
    )
    levels = np.random.default_rng(5).integers(0, 256, (8, 8, channels), dtype=np.uint8)
    inputs = {"x": run(found, encoded(levels[:, :, 0] if channels == 1 else levels))}
    payload = found.example(inputs)
    assert payload is not None
    assert payload.content_type == "image/png"
    np.testing.assert_allclose(run(found, payload.body), inputs["x"], atol=1e-5)


def test_a_row_that_never_was_a_picture_has_no_example(make: Any) -> None:
    found = processor(make)
    assert found.example({"x": np.full((1, 1, 4, 4), 9.0, np.float32)}) is None
    assert found.example({"x": np.full((1, 1, 4, 4), np.nan, np.float32)}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": (0.5, 0.5)},
        {"std": (0.0,)},
        {"datatype": "INT64"},
        {"datatype": "UINT8"},
    ],
)
def test_a_declaration_that_fits_no_picture_is_refused(make: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(PackageError):
        processor(make, **wrong)


def test_a_declaration_must_fit_the_signature(make: Any) -> None:
    declared = ImageInput(tensor="x", width=4, height=4)
    with pytest.raises(PackageError, match="shape"):
        make((("x", "FP32", ("batch", 1, 4, 4)),), input=declared)
    with pytest.raises(PackageError, match="go into 'x'"):
        make((("other", "FP32", ("batch", 3, 4, 4)),), input=declared)


def test_without_pillow_there_is_a_sentence(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(PackageError, match="Pillow is not installed"):
        processor(make)


def test_more_pictures_than_fit_into_memory_are_refused_before_they_are_decoded(make: Any) -> None:
    found = processor(make, size=1024)
    rows = images.LIMIT_BYTES // (4 * 1024 * 1024)
    assert len(found.rows(json.dumps(["x"] * rows).encode(), "application/json")) == rows
    with pytest.raises(TooLarge, match=r"129 pictures of 1024 × 1024 take 516 MiB"):
        found.rows(json.dumps(["x"] * (rows + 1)).encode(), "application/json")
