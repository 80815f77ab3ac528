"""Tensors in gRPC's messages and back, and what must not be cut off or made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.protocols.oip_messages import InferInput
from mlserve_cli.runtime.tensors import DATATYPES

pytest.importorskip("grpc")
contents = pytest.importorskip("mlserve_cli.runtime.rpc.contents")
packed = pytest.importorskip("mlserve_cli.runtime.rpc.packed")
tensor_proto = pytest.importorskip("mlserve_cli.runtime.rpc.tensor_proto")
message = pytest.importorskip("mlserve_cli.runtime.rpc.schema").message

LIMIT = 1 << 20


def values_of(datatype: str) -> np.ndarray[Any, Any]:
    """(2, 3) of a datatype, with both ends of its range."""
    dtype = DATATYPES[datatype]
    array: np.ndarray[Any, Any] = np.empty((2, 3), dtype=dtype)
    if datatype == "BYTES":
        array.ravel()[:] = [b"", b"\xff\x00", "häß".encode(), b"a", b"b", b"c"]
    elif dtype.kind == "b":
        array.ravel()[:] = [True, False, True, True, False, False]
    elif dtype.kind == "f":
        array.ravel()[:] = [np.nan, np.inf, -np.inf, np.finfo(dtype).max, -0.0, 0.1]
    else:
        ends = np.iinfo(dtype)
        array.ravel()[:] = [ends.min, ends.max, 0, 1, 2, 3]
    return array


def same(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype == np.object_:
        assert found.tolist() == expected.tolist()
    else:
        assert found.tobytes() == expected.tobytes()


def item(datatype: str, *shape: int) -> InferInput:
    return InferInput("x", list(shape), datatype)


@pytest.mark.parametrize("datatype", contents.FIELDS)
def test_typed_contents_come_back_as_they_were(datatype: str) -> None:
    array = values_of(datatype)
    sent = message("inference.InferTensorContents")()
    contents.encode(sent, datatype, array)
    same(contents.decode(item(datatype, 2, 3), sent), array)


@pytest.mark.parametrize(
    ("datatype", "shape", "filled", "why"),
    [
        ("INT8", (1,), {"int_contents": [300]}, "holds 300, and INT8 goes from -128 to 127"),
        ("UINT8", (1,), {"uint_contents": [256]}, "holds 256, and UINT8 goes from 0 to 255"),
        ("FP16", (1,), {"fp32_contents": [1]}, "FP16, which has no typed contents"),
        ("FP32", (2,), {"fp64_contents": [1, 2]}, "must be in 'fp32_contents'"),
        ("FP32", (3,), {"fp32_contents": [1, 2]}, "unexpected number of elements 2"),
        ("FP32", (1,), {}, "unexpected number of elements 0"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    datatype: str, shape: tuple[int, ...], filled: dict[str, Any], why: str
) -> None:
    sent = message("inference.InferTensorContents")(**filled)
    with pytest.raises(InvalidRequest, match=why):
        contents.decode(item(datatype, *shape), sent)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_a_tensor_proto_comes_back_as_it_was(datatype: str) -> None:
    array = values_of(datatype)
    sent = message("tensorflow.TensorProto")()
    tensor_proto.encode(sent, array)
    same(tensor_proto.decode("x", sent, limit_bytes=LIMIT), array)


@pytest.mark.parametrize("datatype", sorted(DATATYPES.keys() - {"BYTES"}))
def test_a_tensor_proto_of_bytes_is_read_too(datatype: str) -> None:
    array = values_of(datatype)
    sent = message("tensorflow.TensorProto")()
    tensor_proto.encode(sent, array)
    blank = message("tensorflow.TensorProto")(
        dtype=sent.dtype, tensor_shape=sent.tensor_shape, tensor_content=array.tobytes()
    )
    same(tensor_proto.decode("x", blank, limit_bytes=LIMIT), array)


def proto(shape: list[int], **fields: Any) -> Any:
    sizes = [{"size": size} for size in shape]
    return message("tensorflow.TensorProto")(tensor_shape={"dim": sizes}, **fields)


def test_the_last_element_repeats_to_fill_the_shape() -> None:
    sent = proto([2, 2], dtype=1, float_val=[1, 7])
    found = tensor_proto.decode("x", sent, limit_bytes=LIMIT)
    assert found.tolist() == [[1, 7], [7, 7]]


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (proto([10**9], dtype=1, float_val=[1]), "would take 4000000000 bytes"),
        (proto([2], dtype=1, float_val=[1, 2, 3]), "must have 2 elements, and 'float_val' has 3"),
        (proto([2], dtype=1), "must have 2 elements, and 'float_val' has 0"),
        (proto([2], dtype=1, tensor_content=b"1234"), "must have 8 bytes, and it has 4"),
        (proto([1], dtype=7, tensor_content=b"1"), "must be in 'string_val'"),
        (proto([1], dtype=8), "DT_COMPLEX64, which is not served"),
        (proto([1], dtype=99), "is 99, which is not served"),
        (proto([-1], dtype=1, float_val=[1]), r"cannot have the shape \[-1\]"),
        (proto([2**40, 2**40], dtype=1, float_val=[1]), "cannot have the shape"),
        (proto([1], dtype=6, int_val=[128]), "holds 128, and int8 goes from -128 to 127"),
    ],
)
def test_a_tensor_proto_that_does_not_fit_is_refused(sent: Any, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        tensor_proto.decode("x", sent, limit_bytes=LIMIT)


@pytest.mark.parametrize("datatype", ["BOOL", "FP32", "FP64"])
def test_floats_keep_every_bit_also_those_of_a_nan_that_says_something(datatype: str) -> None:
    dtype = DATATYPES[datatype]
    bits = np.random.default_rng(0).integers(0, 256, 1000 * dtype.itemsize, np.uint8)
    array = bits.view(dtype) if dtype.kind == "f" else bits > 127
    if dtype.kind == "f":
        array[:3] = np.array([np.nan, -np.nan, np.inf], dtype)
        array.view(f"u{dtype.itemsize}")[1] += 7  # the payload of a NaN
    sent = message("inference.InferTensorContents")()
    contents.encode(sent, datatype, array)
    same(contents.decode(item(datatype, array.size), sent), array)
    proto = message("tensorflow.TensorProto")()
    tensor_proto.encode(proto, array)
    same(tensor_proto.decode("x", proto, limit_bytes=LIMIT), array)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 4096, 70_000])
def test_what_is_written_as_bytes_is_what_the_library_would_have_written(count: int) -> None:
    array = np.arange(count, dtype=np.float32)
    ours = message("inference.InferTensorContents")()
    packed.write(ours, "fp32_contents", array)
    theirs = message("inference.InferTensorContents")(fp32_contents=array.tolist())
    assert ours == theirs
    assert ours.SerializeToString() == theirs.SerializeToString()
    same(packed.read(theirs, "fp32_contents", array.dtype, count), array)


def test_elements_are_read_one_by_one_where_something_stands_behind_them() -> None:
    kind = message("tensorflow.TensorProto")
    sent = kind(float_val=[1.5, 2.5])
    unknown = b"\xfa\x7f\x08" + np.array([9, 9], "<f4").tobytes()  # a field of a later version
    sent = kind.FromString(sent.SerializeToString() + unknown)
    sent.string_val.append(b"behind it as well")
    found = packed.read(sent, "float_val", np.dtype(np.float32), 2)
    assert found.tolist() == [1.5, 2.5]


def test_no_elements_are_an_empty_array() -> None:
    sent = message("inference.InferTensorContents")()
    packed.write(sent, "fp32_contents", np.empty((0, 3), np.float32))
    assert sent.ByteSize() == 0
    same(contents.decode(item("FP32", 0, 3), sent), np.empty((0, 3), np.float32))
