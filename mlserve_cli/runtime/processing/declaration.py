"""Processing as data: how a payload becomes tensors, and how outputs become an answer.

These structures stand in a package's manifest, so a Python server and a browser read the same
source. Each input kind has a module of its name beside this one that carries it out.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(gt=0)]


class ImageInput(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="image", tag_field="kind"
):
    """A picture file → `tensor`, (batch, channels, height, width) float32 for NCHW.

    Decode, honour EXIF orientation, convert to `channels` (1 grey, 3 RGB), resize, then
    `(value * scale - mean) / std` per channel, with value in 0 … 255.

    resize: `stretch` ignores the aspect ratio; `cover` fills and crops the centre; `contain` fits
    and pads with `pad`, a grey level from 0 to 255.
    crop: of `cover`, the share of each side that stays: resized to 256 and cut to 224 is 0.875.
    interpolation: how pixels are resized; both look at all that fall into one.
    invert: 255 - value first, for models trained on light strokes over a dark ground.
    """

    tensor: str
    width: Positive
    height: Positive
    channels: Literal[1, 3] = 3
    resize: Literal["stretch", "cover", "contain"] = "stretch"
    pad: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    invert: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of a table. Without a default the column is required.

    `tensor` names the model's input of shape (batch, 1) that takes this column; it is left out
    where all columns go, in order, into one matrix.
    nullable: null in JSON and an empty cell of CSV are a missing number, NaN, for models that were
    trained with such; the column itself must be there.
    """

    name: str
    type: Literal["number", "integer", "string", "boolean"] = "number"
    default: float | int | str | bool | None = None
    tensor: str | None = None
    nullable: bool = False


class TableInput(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="table", tag_field="kind"
):
    """JSON objects or CSV rows with named columns → one matrix `tensor`, or a tensor a column."""

    columns: tuple[Column, ...]
    tensor: str | None = None


class TextInput(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text", tag_field="kind"
):
    """Text → a `BYTES` tensor of shape (batch, 1) or (batch,); or, with a tokenizer, token ids.

    `tokenizer` is a file in Hugging Face's `tokenizer.json` format beside the model. Then `tensor`
    takes the ids, `mask` the attention mask and `type_ids` the segment ids, (batch, length) int64.
    Texts are cut at `max_length` tokens and padded to the longest of the batch.
    """

    tensor: str
    tokenizer: str | None = None
    mask: str | None = None
    type_ids: str | None = None
    max_length: Positive = 128


class ClassesOutput(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="classes", tag_field="kind"
):
    """Scores of shape (batch, classes) → `{"label", "score", "scores"}` of the `top_k` best.

    softmax: apply it first (the tensor holds logits).
    threshold: answer label null when the best score is lower.
    """

    tensor: str
    softmax: bool = False
    top_k: Positive = 3
    threshold: float | None = None


class ValuesOutput(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="values", tag_field="kind"
):
    """A regression: shape (batch,) or (batch, 1) → `{"value"}`; (batch, n) → `{"values"}`."""

    tensor: str


class TokensOutput(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tokens", tag_field="kind"
):
    """Scores of shape (batch, length, labels) → `{"tokens": [{"text", "start", "end", "label",
    "score"}]}`, for text that a tokenizer reads.

    start, end: characters of the text as it was sent. Tokens that the tokenizer adds, and padding,
    are left out. softmax: apply it first (the tensor holds logits).
    """

    tensor: str
    softmax: bool = False


class PythonProcessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The escape hatch: `serve/processing.py` with `preprocess(rows)`, `postprocess(outputs)`.

    preprocess: a list of payloads (parsed JSON, or bytes) → dict of arrays.
    postprocess: dict of arrays → a list of JSON values, one a row.
    requirements: what its imports need, as lines of a requirements file.
    """

    file: str = "processing.py"
    requirements: tuple[str, ...] = ()


class Processing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a package declares; each part may be missing, and then tensors pass as they are."""

    input: ImageInput | TableInput | TextInput | None = None
    output: ClassesOutput | ValuesOutput | TokensOutput | None = None
    python: PythonProcessing | None = None
