"""Scores of every token → the label of each, with the piece of the text that it stands for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import PackageError
from ..manifest import Manifest
from ..tensors import Tensors
from .declaration import TokensOutput
from .outputs import output_spec, rounded, softmax
from .processor import Reader
from .text import TextReader


class TokensWriter:
    """Scores (batch, length, labels) → `{"tokens": [{"text", "start", "end", "label", "score"}]}`.

    The text is read by the tokenizer once more, which says where each token begins and ends, and
    which are none of the text's own. Where the texts are not known, every position is answered,
    with its label and score alone.
    """

    def __init__(self, manifest: Manifest, declared: TokensOutput, reader: Reader) -> None:
        spec = output_spec(manifest, declared.tensor)
        labels = spec.shape[-1] if len(spec.shape) == 3 else 0
        if len(spec.shape) != 3 or spec.dtype.kind != "f":
            raise PackageError(
                f"the tokens of '{manifest.name}' are read from '{spec.name}', which is "
                f"{spec.datatype} {spec.wire_shape} and not floats of [-1,-1,labels]."
            )
        if isinstance(labels, int) and manifest.labels and len(manifest.labels) != labels:
            raise PackageError(
                f"'{manifest.name}' has {len(manifest.labels)} labels, "
                f"and its output '{spec.name}' has {labels} of them a token."
            )
        if not isinstance(reader, TextReader) or reader.tokenizer is None:
            raise PackageError(
                f"'{manifest.name}' answers with tokens, and takes no text through a tokenizer.",
                hint='declare {"kind": "text", "tokenizer": "tokenizer.json", …} as the input',
            )
        self._declared = declared
        self._labels = manifest.labels
        self._reader = reader

    def answers(self, outputs: Tensors, payloads: list[Any] | None = None) -> list[Any]:
        """One object a row."""
        scores = outputs[self._declared.tensor].astype(np.float64)
        if self._declared.softmax:
            scores = softmax(scores)
        best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=-1)
        highest = np.take_along_axis(scores, best[..., None], axis=-1)[..., 0]
        named = [
            [{"label": self._label(int(index)), "score": rounded(score)} for index, score in row]
            for row in (zip(*each, strict=True) for each in zip(best, highest, strict=True))
        ]
        if payloads is None:
            return [{"tokens": row} for row in named]
        texts = self._reader.texts(payloads)
        encodings = self._reader.tokenizer.encode_batch(texts)
        return [
            {"tokens": _own(text, encoding, row)}
            for text, encoding, row in zip(texts, encodings, named, strict=True)
        ]

    def _label(self, index: int) -> str:
        return self._labels[index] if index < len(self._labels) else str(index)


def _own(text: str, encoding: Any, named: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tokens that are the text's own."""
    found = []
    for (start, end), added, mask, answer in zip(
        encoding.offsets, encoding.special_tokens_mask, encoding.attention_mask, named, strict=False
    ):
        if mask and not added:
            found.append({"text": text[start:end], "start": start, "end": end} | answer)
    return found
