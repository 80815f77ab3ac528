"""preprocessor_config.json → the declared processing of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mlserve_cli.errors import DefinitionError
from mlserve_cli.runtime.processing.declaration import ImageInput

FILE = "preprocessor_config.json"

_INTERPOLATION: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which image processors keep; 0 is nearest and 1 Lanczos."""


def read(folder: Path, config: Any) -> tuple[ImageInput | None, list[str]]:
    """What the image processor does, as data; None, and the reason, where it cannot be said so."""
    from mlserve_cli.export.hugging_face import read_json

    path = folder / FILE
    if not path.is_file():
        return None, [f"the folder has no {FILE}: the package takes pixels, not pictures"]
    said = read_json(path)
    try:
        return _declared(said, int(getattr(config, "num_channels", 3))), []
    except (_Unsaid, KeyError, TypeError, ValueError) as reason:
        return None, [f"{FILE} {reason}: the package takes pixels, not pictures"]


class _Unsaid(Exception):
    """Something that the declaration has no word for."""


def _declared(said: dict[str, Any], channels: int) -> ImageInput:
    if channels not in (1, 3):
        raise _Unsaid(f"is for {channels} channels")
    for key in ("do_pad", "do_flip_channel_order", "do_reduce_labels", "do_thumbnail"):
        if said.get(key):
            raise _Unsaid(f"has {key}")
    if not said.get("do_resize", True):
        raise _Unsaid("does not resize")
    height, width, resize, crop = _sizes(said)
    scale = float(said.get("rescale_factor", 1 / 255)) if said.get("do_rescale", True) else 1.0
    normalized = said.get("do_normalize", True)
    mean, std = (
        _values(said.get(key)) if normalized else () for key in ("image_mean", "image_std")
    )
    resample = int(said.get("resample", 2))
    if resample not in _INTERPOLATION:
        raise _Unsaid(f"resizes by resample {resample}")
    return ImageInput(
        tensor="pixel_values",
        width=width,
        height=height,
        channels=1 if channels == 1 else 3,
        resize=resize,
        crop=crop,
        interpolation=_INTERPOLATION[resample],
        scale=scale,
        mean=mean,
        std=std,
    )


def _sizes(said: dict[str, Any]) -> tuple[int, int, Literal["stretch", "cover"], float]:
    """Height, width, how it is fitted, and how much of the shorter side stays."""
    size = said.get("size", 224)
    crop = said.get("crop_size") if said.get("do_center_crop") else None
    if "crop_pct" in said and not crop:  # ConvNeXt: below 384 it resizes larger, then crops
        edge = _edge(size)
        if edge >= 384:
            return edge, edge, "stretch", 1.0
        # It rounds to whole pixels on its way: 224 / 0.875 is 256.
        return edge, edge, "cover", edge / int(edge / float(said["crop_pct"] or 224 / 256))
    if isinstance(size, dict) and "height" in size and "width" in size:
        height, width = int(size["height"]), int(size["width"])
        if not crop:
            return height, width, "stretch", 1.0
        if _pair(crop) != (height, width):
            raise _Unsaid("stretches, then crops")
        return height, width, "stretch", 1.0
    edge = _edge(size)
    if not crop:
        if isinstance(size, int):
            return edge, edge, "stretch", 1.0
        raise _Unsaid("keeps the picture's proportions, so that sizes differ")
    height, width = _pair(crop)
    if max(height, width) > edge:
        raise _Unsaid("crops to more than it resizes to")
    if height != width:
        raise _Unsaid("crops to another shape than a square")
    return height, width, "cover", height / edge


def _edge(size: Any) -> int:
    if isinstance(size, int):
        return size
    if isinstance(size, dict) and "shortest_edge" in size and "longest_edge" not in size:
        return int(size["shortest_edge"])
    raise _Unsaid(f"has the size {size}")


def _pair(size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])


def _values(given: Any) -> tuple[float, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(each, (int, float)) for each in given):
        raise DefinitionError(f"{FILE} has {given!r} where a list of numbers belongs.")
    return tuple(float(each) for each in given)
