from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InvalidRequest, PackageError, UnsupportedMedia
from mlserve_cli.runtime.processing.declaration import TextInput

IDS = (("ids", "INT64", ("batch", "length")), ("mask", "INT64", ("batch", "length")))


class FakeTokenizer:
    """A word is its length; pads with 0. Remembers how it was set up."""

    padding: dict[str, Any] | None = None
    made: FakeTokenizer

    def __init__(self, path: str) -> None:
        self.path = path
        FakeTokenizer.made = self

    @classmethod
    def from_file(cls, path: str) -> FakeTokenizer:
        if not path.endswith("tokenizer.json"):
            raise Exception("no such file")
        return cls(path)

    def enable_truncation(self, limit: int) -> None:
        self.limit = limit

    def enable_padding(self, length: int | None, **how: Any) -> None:
        self.length = length

    def encode_batch(self, texts: list[str]) -> list[Any]:
        ids = [[len(word) for word in text.split()][: self.limit] for text in texts]
        longest = self.length or max(map(len, ids))
        return [
            SimpleNamespace(
                ids=row + [0] * (longest - len(row)),
                attention_mask=[1] * len(row) + [0] * (longest - len(row)),
                type_ids=[0] * longest,
            )
            for row in ids
        ]

    def decode(self, ids: list[int]) -> str:
        return " ".join("x" * token for token in ids if token)


@pytest.fixture
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tokenizers")
    module.Tokenizer = FakeTokenizer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tokenizers", module)


@pytest.mark.parametrize(
    ("shape", "expected"), [(("batch",), (2,)), (("batch", 1), (2, 1)), (("batch", "n"), (2, 1))]
)
def test_texts_take_the_rank_that_the_model_wants(make: Any, shape: Any, expected: Any) -> None:
    found = make((("x", "BYTES", shape),), input=TextInput(tensor="x"))
    batch = found.tensors(["hä", {"text": ""}])["x"]
    assert batch.shape == expected
    assert batch.ravel().tolist() == ["hä".encode(), b""]


@pytest.mark.parametrize("row", [5, None, ["a"], {"txt": "a"}, {"text": 5}, "\ud800"])
def test_what_is_no_text_is_refused_by_its_row(make: Any, row: Any) -> None:
    found = make((("x", "BYTES", ("batch",)),), input=TextInput(tensor="x"))
    with pytest.raises(InvalidRequest, match="row 1"):
        found.tensors(["fine", row])


def test_a_plain_body_is_one_text_and_must_be_utf_8(make: Any) -> None:
    found = make((("x", "BYTES", ("batch",)),), input=TextInput(tensor="x"))
    assert found.rows(b"[not json]", "text/plain") == ["[not json]"]
    assert found.rows(b"free text", "") == ["free text"]
    with pytest.raises(InvalidRequest, match="UTF-8"):
        found.rows(b"\xff", "text/plain")
    with pytest.raises(UnsupportedMedia):
        found.rows(b"x", "image/png")


def test_the_example_is_the_first_golden_text(make: Any) -> None:
    found = make((("x", "BYTES", ("batch", 1)),), input=TextInput(tensor="x"))
    payload = found.example(found.tensors(["hello", "you"]))
    assert (payload.body, payload.content_type) == (b"hello", "text/plain")


def test_a_tokenizer_fills_ids_and_mask(make: Any, tokenizers: None) -> None:
    declared = TextInput(tensor="ids", tokenizer="tokenizer.json", mask="mask", max_length=3)
    found = make(IDS, input=declared)
    tensors = found.tensors(["a bb", "a bb ccc dddd"])
    assert tensors["ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert tensors["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert tensors["ids"].dtype == np.int64
    assert FakeTokenizer.made.limit == 3
    assert FakeTokenizer.made.length is None
    assert found.example(tensors).body == b"x xx"


def test_a_fixed_length_is_padded_to(make: Any, tokenizers: None) -> None:
    declared = TextInput(tensor="ids", tokenizer="tokenizer.json")
    found = make((("ids", "INT32", ("batch", 5)),), input=declared)
    assert found.tensors(["a"])["ids"].shape == (1, 5)
    assert found.tensors(["a"])["ids"].dtype == np.int32
    assert FakeTokenizer.made.limit == 5


def test_a_tokenizer_that_is_missing_is_a_sentence(
    make: Any, tokenizers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PackageError, match="cannot be read: no such file"):
        make(IDS[:1], input=TextInput(tensor="ids", tokenizer="other"))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PackageError, match="'tokenizers' is not installed") as caught:
        make(IDS[:1], input=TextInput(tensor="ids", tokenizer="tokenizer.json"))
    assert caught.value.hint == "pip install tokenizers"


@pytest.mark.parametrize(
    ("inputs", "declared"),
    [
        ((("x", "FP32", ("batch",)),), TextInput(tensor="x")),
        ((("x", "BYTES", ("batch", 2)),), TextInput(tensor="x")),
        ((("x", "BYTES", ("batch",)),), TextInput(tensor="y")),
        ((("x", "BYTES", ("batch",)), ("z", "FP32", ("batch",))), TextInput(tensor="x")),
        (IDS, TextInput(tensor="ids", tokenizer="tokenizer.json", mask="type_ids")),
        (IDS, TextInput(tensor="ids", tokenizer="tokenizer.json")),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(
    make: Any, tokenizers: None, inputs: Any, declared: TextInput
) -> None:
    with pytest.raises(PackageError):
        make(inputs, input=declared)
