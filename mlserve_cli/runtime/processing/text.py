"""Text → a `BYTES` tensor, or token ids where the package has a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidRequest, PackageError
from ..manifest import Manifest
from ..tensors import Tensors, TensorSpec
from . import payload
from .cells import to_bytes
from .declaration import TextInput
from .processor import Payload


class TextReader:
    """Plain text is one row; JSON holds strings or `{"text": …}`."""

    def __init__(self, manifest: Manifest, declared: TextInput, serve: Path) -> None:
        self._declared = declared
        self._specs = {spec.name: spec for spec in manifest.inputs}
        self._spec = self._input(manifest, declared.tensor)
        filled = {declared.tensor}
        self.tokenizer: Any = None
        if declared.tokenizer is None:
            if self._spec.datatype != "BYTES" or not _one_text_a_row(self._spec):
                raise PackageError(
                    f"the text of '{manifest.name}' goes into '{self._spec.name}', which is "
                    f"{self._spec.datatype} {self._spec.wire_shape} and not BYTES [-1] or [-1,1].",
                    hint='name a "tokenizer" file, if the model takes token ids',
                )
        else:
            for name in (declared.mask, declared.type_ids):
                if name is not None:
                    self._input(manifest, name)
                    filled.add(name)
            self.tokenizer = _load(serve / declared.tokenizer, manifest, self._length())
        for name in self._specs:
            if name not in filled:
                raise PackageError(f"the text of '{manifest.name}' leaves '{name}' unfilled.")

    def rows(self, body: bytes, content_type: str) -> list[Any]:
        """Split a body into texts."""
        kind = payload.kind_of(body, content_type, otherwise="text")
        if kind == "json":
            return payload.json_rows(body)
        if kind != "text":
            raise payload.refuse(kind, allowed="text/plain or application/json")
        try:
            return [body.decode("utf-8")]
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the text is not UTF-8: {error.reason}") from error

    def form(self, fields: dict[str, str | bytes]) -> list[Any]:
        """One text, in the field `text`."""
        return [fields]

    def texts(self, rows: list[Any]) -> list[str]:
        """The text of each row. Raises `InvalidRequest` naming a row that has none."""
        return [_text(row, number) for number, row in enumerate(rows)]

    def tensors(self, rows: list[Any]) -> Tensors:
        """Encode the texts; ids are padded to the longest of them."""
        texts = self.texts(rows)
        if self.tokenizer is None:
            raw = np.empty(len(texts), dtype=np.object_)
            raw[:] = [to_bytes(text, where=f"row {number}") for number, text in enumerate(texts)]
            return {self._spec.name: raw.reshape(-1, *[1] * (len(self._spec.shape) - 1))}
        encodings = self.tokenizer.encode_batch(texts)
        wanted = {
            self._declared.tensor: [encoding.ids for encoding in encodings],
            self._declared.mask: [encoding.attention_mask for encoding in encodings],
            self._declared.type_ids: [encoding.type_ids for encoding in encodings],
        }
        return {
            name: np.array(ids, dtype=self._specs[name].dtype)
            for name, ids in wanted.items()
            if name is not None
        }

    def example(self, inputs: Tensors) -> Payload | None:
        """The first text; with a tokenizer, what its ids spell."""
        array = inputs[self._spec.name]
        if self.tokenizer is None:
            return Payload(bytes(array.flat[0]), "text/plain")
        ids = (
            array[0]
            if self._declared.mask is None
            else array[0][inputs[self._declared.mask][0] > 0]
        )
        spelled: str = self.tokenizer.decode([int(token) for token in ids])
        return Payload(spelled.encode(), "text/plain") if spelled.strip() else None

    def _input(self, manifest: Manifest, name: str) -> TensorSpec:
        if name not in self._specs:
            raise PackageError(
                f"the text of '{manifest.name}' fills '{name}', which is no input of the model.",
                hint="its inputs are " + ", ".join(self._specs),
            )
        return self._specs[name]

    def _length(self) -> tuple[int, int | None]:
        """At most so many tokens, and exactly so many where the model wants that."""
        size = self._spec.shape[-1] if len(self._spec.shape) > 1 else None
        if isinstance(size, int):
            return min(size, self._declared.max_length), size
        return self._declared.max_length, None


def _load(path: Path, manifest: Manifest, lengths: tuple[int, int | None]) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise PackageError(
            f"'{manifest.name}' takes text through a tokenizer, "
            "and the library 'tokenizers' is not installed.",
            hint="pip install tokenizers",
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise PackageError(f"the tokenizer '{path}' cannot be read: {error}.") from error
    longest, exactly = lengths
    tokenizer.enable_truncation(longest)
    # Most vocabularies say what pads; 0 is what the mask hides anyhow.
    padding = tokenizer.padding or {}
    tokenizer.enable_padding(
        length=exactly,
        pad_id=padding.get("pad_id", 0),
        pad_type_id=padding.get("pad_type_id", 0),
        pad_token=padding.get("pad_token", "[PAD]"),
    )
    return tokenizer


def _one_text_a_row(spec: TensorSpec) -> bool:
    """(batch,) or (batch, 1), where the 1 may be a size that is left open."""
    return len(spec.shape) == 1 or (
        len(spec.shape) == 2 and (spec.shape[1] == 1 or isinstance(spec.shape[1], str))
    )


def _text(row: Any, number: int) -> str:
    if isinstance(row, dict) and set(row) == {"text"}:
        row = row["text"]
    if not isinstance(row, str):
        raise InvalidRequest(
            f"row {number} is {payload.show(row)}, and it must be a string",
            hint='send a string, or {"text": "…"}',
        )
    return row
