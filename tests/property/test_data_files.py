"""What is written to a file is read from it again: CSV, JSON Lines and .npz, in any batches."""

import csv
import json

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlserve_cli.data.source import read
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import TensorSpec

matrices = arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.just(3)),
    elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
)
texts = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1),
    min_size=1,
    max_size=6,
)
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _read(path, batch, spec, **fields):
    manifest = Manifest(
        name="made", version="1", variant="fp32", inputs=(spec,), outputs=(), **fields
    )
    processor = processing.build(manifest, path.parent)
    batches = list(read(str(path), manifest, processor, batch=batch))
    assert all(item.size <= batch for item in batches)
    inputs = np.concatenate([item.inputs["x"] for item in batches])
    return inputs, np.concatenate([item.targets for item in batches])


@quick
@given(matrix=matrices, batch=st.integers(1, 10))
def test_numbers_come_back_bit_for_bit_from_every_format(matrix, batch, tmp_path):
    spec = TensorSpec("x", "FP32", ("batch", 3))
    targets = np.arange(len(matrix))
    as_csv, as_jsonl, as_npz = (tmp_path / f"rows.{end}" for end in ("csv", "jsonl", "npz"))
    with as_csv.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "target", "c"])
        for (a, b, c), target in zip(matrix.tolist(), targets, strict=True):
            writer.writerow([a, b, target, c])
    with as_jsonl.open("w") as file:
        for row, target in zip(matrix.tolist(), targets.tolist(), strict=True):
            file.write(json.dumps({"x": row, "target": target}) + "\n")
    np.savez(as_npz, x=matrix, target=targets)
    for path in (as_csv, as_jsonl, as_npz):
        found, labels = _read(path, batch, spec)
        np.testing.assert_array_equal(found, matrix)
        np.testing.assert_array_equal(labels, targets)


@quick
@given(values=texts, batch=st.integers(1, 4))
def test_text_comes_back_whatever_stands_in_it(values, batch, tmp_path):
    spec = TensorSpec("x", "BYTES", ("batch",))
    as_csv, as_jsonl = (tmp_path / f"rows.{end}" for end in ("csv", "jsonl"))
    with as_csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y"])
        writer.writerows([value, 1] for value in values)
    with as_jsonl.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps({"x": value, "y": 1}) + "\n")
    expected = [value.encode() for value in values]
    for path in (as_csv, as_jsonl):
        assert _read(path, batch, spec)[0].tolist() == expected
