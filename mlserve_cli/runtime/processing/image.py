"""A picture file → one row of pixels. Pillow is imported when a package of pictures is loaded."""

from __future__ import annotations

import base64
import binascii
import io
import math
from typing import Any

import numpy as np

from ..errors import InvalidRequest, PackageError, TooLarge
from ..manifest import Manifest
from ..tensors import Array, Tensors
from . import payload
from .declaration import ImageInput
from .processor import Payload

LIMIT_PIXELS = 50_000_000
"""A 48-megapixel camera. It is checked before decoding: a small file can claim any size."""

LIMIT_BYTES = 512 << 20
"""Of the tensor that one request's pictures become; 90 bytes of PNG can claim to be one of them."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is decoded. Pillow knows more, some of which start other programs (EPS)."""

_ALLOWED = 'an image file as the raw body, or JSON {"image": "<base64>"}'


class ImageReader:
    """An image file is one row; JSON holds base64 text, one image a row."""

    def __init__(self, manifest: Manifest, declared: ImageInput) -> None:
        try:
            from PIL import Image
        except ImportError as error:
            raise PackageError(
                f"'{manifest.name}' takes pictures, and the library Pillow is not installed.",
                hint="pip install pillow",
            ) from error
        Image.preinit()
        self._declared = declared
        _check(manifest, declared)
        self._mean = np.array(declared.mean or (0.0,), dtype=np.float32)
        self._std = np.array(declared.std or (1.0,), dtype=np.float32)
        self._scale = np.float32(declared.scale)
        self._dtype = manifest.inputs[0].dtype

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """The file itself, or the base64 texts of JSON."""
        kind = payload.kind_of(body, content_type, otherwise="file")
        if kind == "json":
            return self._few(payload.json_rows(body))
        if kind != "file":
            raise payload.refuse(kind, allowed=_ALLOWED)
        if not body:
            raise InvalidRequest("the request has an empty body", hint=f"send {_ALLOWED}")
        return [body]

    def form(self, fields: dict[str, str | bytes]) -> list[Any]:
        """One picture, in the field `image`; as base64 where it is text."""
        return [fields]

    def _few(self, rows: list[Any]) -> list[Any]:
        """The rows, if their tensor will not fill the memory. Raises `TooLarge`."""
        d = self._declared
        needed = len(rows) * math.prod(_sizes(d)) * self._dtype.itemsize
        if len(rows) > 1 and needed > LIMIT_BYTES:
            raise TooLarge(
                f"{len(rows)} pictures of {d.width} × {d.height} take {needed >> 20} MiB, "
                f"and one request may take {LIMIT_BYTES >> 20}",
                hint="send fewer pictures at once",
            )
        return rows

    def tensors(self, rows: list[Any]) -> Tensors:
        """Decode, resize and normalize every picture."""
        d = self._declared
        batch = np.empty((len(rows), *_sizes(d)), dtype=self._dtype)
        for number, row in enumerate(rows):
            batch[number] = self._normalized(self.pixels(_file(row, number), row=number))
        return {d.tensor: batch}

    def pixels(self, file: bytes, *, row: int = 0) -> Array:
        """One file → (height, width, channels) uint8, resized. Raises `InvalidRequest`."""
        from PIL import Image

        d = self._declared
        try:
            image = _open(file, row)
            image = _upright(image)
            image = _to_channels(image, d.channels)
            if d.invert:
                image = image.point(lambda value: 255 - value)
            image = _resize(image, d)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _too_large(row) from error
        except InvalidRequest:
            raise
        except Exception as error:  # a damaged file makes Pillow raise almost anything
            raise InvalidRequest(
                f"row {row}: the image is damaged, or of no known format",
                hint="it can be " + ", ".join(FORMATS),
            ) from error
        return np.asarray(image, dtype=np.uint8).reshape(d.height, d.width, d.channels)

    def _normalized(self, pixels: Array) -> Array:
        if self._dtype.kind == "u":
            values: Array = pixels
        else:
            values = (pixels.astype(np.float32) * self._scale - self._mean) / self._std
        return values.transpose(2, 0, 1) if self._declared.layout == "NCHW" else values

    def example(self, inputs: Tensors) -> Payload | None:
        """The first row as a PNG file, if it can have been a picture."""
        file = self.picture(inputs[self._declared.tensor][0])
        return Payload(file, "image/png") if file else None

    def picture(self, row: Array) -> bytes | None:
        """The PNG file that this row of the tensor could have come from, or None.

        `row` is (channels, height, width) or (height, width, channels). What comes back from the
        file must be the row, within one grey level; a row that never was a picture gives None.
        """
        from PIL import Image

        d = self._declared
        values = row.transpose(1, 2, 0) if d.layout == "NCHW" else row
        if values.shape != (d.height, d.width, d.channels) or not d.scale:
            return None
        if d.resize == "cover" and d.crop < 1:
            return None  # a picture of this very size would be cut once more
        if self._dtype.kind != "u":
            values = (values.astype(np.float32) * self._std + self._mean) / self._scale
        levels = np.clip(np.rint(values), 0, 255)
        if not np.all(np.isfinite(values)) or np.abs(levels - values).max() > 1.0:
            return None
        pixels = levels.astype(np.uint8)
        if d.invert:
            pixels = 255 - pixels
        file = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if d.channels == 1 else pixels).save(file, "PNG")
        return file.getvalue()


def _check(manifest: Manifest, declared: ImageInput) -> None:
    """Refuse at load time what no picture could get right."""
    if len(manifest.inputs) != 1 or manifest.inputs[0].name != declared.tensor:
        raise PackageError(
            f"the pictures of '{manifest.name}' go into '{declared.tensor}', and the model takes "
            + ", ".join(spec.name for spec in manifest.inputs)
            + "."
        )
    spec = manifest.inputs[0]
    sizes = _sizes(declared)
    fits = len(spec.shape) == 4 and all(
        isinstance(allowed, str) or allowed == size
        for allowed, size in zip(spec.shape[1:], sizes, strict=True)
    )
    if not fits:
        raise PackageError(
            f"the pictures of '{manifest.name}' are {declared.layout} {[-1, *sizes]}, "
            f"and '{spec.name}' has shape {spec.wire_shape}."
        )
    for name, values in (("mean", declared.mean), ("std", declared.std)):
        if len(values) not in (0, 1, declared.channels):
            raise PackageError(
                f"the {name} of '{manifest.name}' has {len(values)} values for "
                f"{declared.channels} channels."
            )
    if 0.0 in declared.std:
        raise PackageError(f"the std of '{manifest.name}' holds a zero.")
    plain = declared.scale == 1.0 and not declared.mean and not declared.std
    if spec.datatype not in ("FP32", "FP16", "FP64") and not (spec.datatype == "UINT8" and plain):
        raise PackageError(
            f"the pictures of '{manifest.name}' go into '{spec.name}', which is {spec.datatype}.",
            hint="FP32, FP16, FP64; or UINT8 with scale 1 and neither mean nor std",
        )


def _sizes(declared: ImageInput) -> tuple[int, int, int]:
    """The shape of one row."""
    if declared.layout == "NHWC":
        return declared.height, declared.width, declared.channels
    return declared.channels, declared.height, declared.width


def _file(row: Any, number: int) -> bytes:
    if isinstance(row, (bytes, bytearray, memoryview)):
        return bytes(row)
    if isinstance(row, dict) and set(row) == {"image"}:
        row = row["image"]
    if not isinstance(row, str):
        raise InvalidRequest(
            f"row {number} is {payload.show(row)}, and it must be an image", hint=f"send {_ALLOWED}"
        )
    text = row.partition(",")[2] if row.startswith("data:") else row
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"row {number}: the image is no base64 text: {error}") from error


def _open(file: bytes, row: int) -> Any:
    from PIL import Image

    image = Image.open(io.BytesIO(file), formats=FORMATS)
    if image.width * image.height > LIMIT_PIXELS:
        raise _too_large(row)
    image.load()
    return image


def _too_large(row: int) -> InvalidRequest:
    return InvalidRequest(
        f"row {row}: the image has more than {LIMIT_PIXELS // 1_000_000} million pixels",
        hint="make it smaller before sending it",
    )


def _upright(image: Any) -> Any:
    """Turn the picture as its EXIF orientation says; a broken EXIF block turns nothing."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_channels(image: Any, channels: int) -> Any:
    """Any mode → "L" or "RGB" at 8 bits; transparent parts lie on white."""
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("L" if channels == 1 else "RGB")


def _to_8_bits(grey: Array) -> Array:
    """Greys of 16 or 32 bits, or floats of 0 … 1 or 0 … 255, to 0 … 255."""
    if grey.dtype.kind == "f":
        peak = float(np.nanmax(grey, initial=0.0))
        grey = np.nan_to_num(grey) * (255.0 if peak <= 1.0 else 1.0)
    elif grey.dtype.itemsize == 2 or int(grey.max(initial=0)) > 255:
        grey = grey / 257.0  # 65535 / 255
    levels: Array = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return levels


def _resize(image: Any, declared: ImageInput) -> Any:
    """To exactly (width, height), by `declared.resize`; with antialiasing."""
    from PIL import Image

    width, height = declared.width, declared.height
    kinds = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    kind = kinds[declared.interpolation]
    cut = declared.resize == "cover" and declared.crop < 1
    if image.size == (width, height) and not cut:
        return image
    if declared.resize == "stretch":
        return image.resize((width, height), kind)
    across, down = width / image.width, height / image.height
    factor = max(across, down) if declared.resize == "cover" else min(across, down)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    if declared.resize == "cover":
        # The part of the original that shows, so that a long strip is never blown up whole.
        factor /= declared.crop
        part = (min(image.width, width / factor), min(image.height, height / factor))
        left, top = (image.width - part[0]) / 2, (image.height - part[1]) / 2
        box = (left, top, left + part[0], top + part[1])
        return image.resize((width, height), kind, box=box)
    size = (min(size[0], width), min(size[1], height))
    pad = declared.pad if declared.channels == 1 else (declared.pad,) * 3
    canvas = Image.new(image.mode, (width, height), pad)
    canvas.paste(image.resize(size, kind), ((width - size[0]) // 2, (height - size[1]) // 2))
    return canvas
