"""decode(encode(x)) = x, for every datatype, as JSON and as binary."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlserve_cli.runtime import json_text
from mlserve_cli.runtime.errors import InvalidRequest, RequestError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.cells import to_array
from mlserve_cli.runtime.protocols import oip_rest
from mlserve_cli.runtime.protocols.oip_messages import InferRequest
from mlserve_cli.runtime.tensors import DATATYPES, TensorSpec

DATATYPE = st.sampled_from(sorted(DATATYPES))
SHAPE = arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, np.ndarray[Any, Any]]:
    datatype = draw(DATATYPE)
    shape = draw(SHAPE)
    if datatype == "BYTES":
        size = int(np.prod(shape))
        texts = draw(st.lists(st.text(), min_size=size, max_size=size))
        array = np.empty(size, dtype=np.object_)
        array[:] = [text.encode() for text in texts]
        return datatype, array.reshape(shape)
    return datatype, draw(arrays.arrays(DATATYPES[datatype], shape))


def manifest(datatype: str, array: Any) -> Manifest:
    spec = TensorSpec("x", datatype, ("batch", *array.shape[1:]))
    return Manifest(name="m", version="1", variant="v", inputs=(spec,), outputs=(spec,))


def there_and_back(datatype: str, array: Any, *, binary: bool) -> Any:
    """Encode as a reply would, then read that as a request."""
    request = InferRequest(inputs=[], parameters={"binary_data_output": binary})
    reply = oip_rest.encode(manifest(datatype, array), request, {"x": array})
    headers = dict(reply.headers)
    length = headers.get(b"inference-header-content-length")
    text = reply.body[: int(length)] if length else reply.body
    changed = text.replace(b'"outputs":', b'"inputs":', 1)
    length = b"%d" % len(changed) if length else None
    body = changed + reply.body[len(text) :]
    return oip_rest.parse(manifest(datatype, array), body, length)[1]["x"]


@given(tensors())
def test_binary_tensors_come_back_bit_for_bit(tensor: tuple[str, Any]) -> None:
    datatype, array = tensor
    found = there_and_back(datatype, array, binary=True)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    same = found.tolist() if datatype == "BYTES" else found.tobytes()
    assert same == (array.tolist() if datatype == "BYTES" else array.tobytes())


@given(tensors())
def test_json_tensors_come_back_equal(tensor: tuple[str, Any]) -> None:
    datatype, array = tensor
    found = there_and_back(datatype, array, binary=False)
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, array)


@given(tensors())
def test_nested_lists_mean_what_flat_ones_do(tensor: tuple[str, Any]) -> None:
    datatype, array = tensor
    if datatype == "BYTES" or not array.size:
        return
    found = to_array(array.tolist(), datatype, where="x")
    np.testing.assert_array_equal(found, array)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, DATATYPE)
def test_no_value_is_ever_guessed_at(value: Any, datatype: str) -> None:
    """Either an array whose elements are the values themselves, or a sentence."""
    try:
        array = to_array(value, datatype, where="x")
    except InvalidRequest:
        return
    flat = value
    while isinstance(flat, list) and flat and isinstance(flat[0], list):
        flat = [item for inner in flat for item in inner]
    flat = flat if isinstance(flat, list) else [flat]
    assert array.size == len(flat)
    for found, given_value in zip(array.ravel().tolist(), flat, strict=True):
        if datatype == "BYTES":
            assert found == given_value.encode()
        elif not datatype.startswith("FP"):
            assert found == given_value
            assert type(found) is type(given_value)


@given(st.binary(max_size=80), st.none() | st.binary(max_size=4) | st.integers(0, 90))
def test_no_body_raises_anything_but_a_sentence(body: bytes, header: Any) -> None:
    array = np.zeros((1, 3), np.float32)
    length = str(header).encode() if isinstance(header, int) else header
    with suppress(RequestError):
        _, tensors = oip_rest.parse(manifest("FP32", array), body, length)
        assert isinstance(tensors, dict)


@given(JSON)
def test_the_extended_encoder_writes_what_the_decoder_reads(value: Any) -> None:
    try:
        text = json_text.encode(value, finite=False)
    except UnicodeEncodeError:  # half a surrogate pair is no text in either direction
        return
    try:
        found = json_text.decode(text, msgspec.json.Decoder(Any))
    except InvalidRequest:  # whole numbers of more than 64 bits beside NaN, for one
        return
    assert repr(found) == repr(value) or found == value
