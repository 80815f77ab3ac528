"""Laws of batch prediction: columns as a whole and row by row are the same; nothing is lost."""

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.predict import rows, table
from mlserve_cli.predict.blocks import Plan
from mlserve_cli.predict.conveyor import Conveyor
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import Column, Processing, TableInput
from mlserve_cli.runtime.tensors import TensorSpec

pa = pytest.importorskip("pyarrow")

CELLS = {
    "number": st.one_of(
        st.none(),
        st.just(float("nan")),
        st.floats(allow_nan=False),
    ),
    "integer": st.one_of(st.none(), st.integers(-(2**40), 2**40)),
    "string": st.one_of(st.none(), st.text(max_size=5)),
    "boolean": st.one_of(st.none(), st.booleans()),
}
ARROW = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "string": pa.string(),
    "boolean": pa.bool_(),
}
DATATYPES = {"number": "FP32", "integer": "INT32", "string": "BYTES", "boolean": "FP32"}
DEFAULTS = {"number": 1.5, "integer": 3, "string": "x", "boolean": True}


@st.composite
def tables(draw):
    """(declared columns, an Arrow record batch)."""
    kinds = draw(st.lists(st.sampled_from(list(CELLS)), min_size=1, max_size=4))
    count = draw(st.integers(1, 6))
    declared, arrays = [], []
    for number, kind in enumerate(kinds):
        nullable = kind == "number" and draw(st.booleans())
        default = DEFAULTS[kind] if draw(st.booleans()) else None
        declared.append(
            Column(f"c{number}", type=kind, nullable=nullable, default=default, tensor=f"t{number}")
        )
        cells = draw(st.lists(CELLS[kind], min_size=count, max_size=count))
        arrays.append(pa.array(cells, ARROW[kind]))
    return declared, pa.RecordBatch.from_arrays(arrays, [column.name for column in declared])


@given(tables())
@settings(max_examples=300)
def test_columns_as_a_whole_become_what_the_server_makes_of_the_rows(made):
    declared, batch = made
    manifest = Manifest(
        name="made",
        version="1",
        variant="fp32",
        inputs=tuple(
            TensorSpec(column.tensor, DATATYPES[column.type], ("batch", 1)) for column in declared
        ),
        outputs=(),
        processing=Processing(input=TableInput(columns=tuple(declared))),
    )
    processor = processing.build(manifest, Path())
    plan = Plan(manifest=manifest, processor=processor)
    found = table.Columns(batch.schema, plan, where="it").prepare(batch)
    expected = rows.prepare(batch.to_pylist(), processor, manifest)
    assert list(found.rows) == list(expected.rows)
    assert [each.row for each in found.rejects] == [each.row for each in expected.rejects]
    for name in (spec.name for spec in manifest.inputs) if found.rows else ():
        (ours,), (theirs,) = found.groups, expected.groups
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])


@given(
    count=st.integers(0, 60), workers=st.integers(1, 4), ahead=st.integers(1, 5), seed=st.integers()
)
@settings(max_examples=60)
def test_the_conveyor_keeps_the_order_and_never_holds_more_than_it_may(count, workers, ahead, seed):
    chance = random.Random(seed)
    held, most, lock = 0, 0, threading.Lock()

    def items():
        nonlocal held, most
        for number in range(count):
            with lock:
                held += 1
                most = max(most, held)
            yield number

    def work(number):
        if chance.random() < 0.1:
            time.sleep(0.0005)
        return number * 2

    out = []
    for result in Conveyor(work, workers=workers, ahead=ahead).run(items()):
        out.append(result)
        with lock:
            held -= 1
    assert out == [2 * number for number in range(count)]
    assert most <= ahead + 1  # one is given back before the next is asked for


@given(
    fails=st.integers(0, 20), where=st.sampled_from(["source", "work"]), workers=st.integers(1, 4)
)
@settings(max_examples=60)
def test_an_error_comes_in_its_turn_and_ends_all_threads(fails, where, workers):
    def items():
        for number in range(40):
            if where == "source" and number == fails:
                raise LookupError(number)
            yield number

    def work(number):
        if where == "work" and number == fails:
            raise LookupError(number)
        return number

    before = threading.active_count()
    results = Conveyor(work, workers=workers, ahead=3).run(items())
    for number in range(fails):
        assert next(results) == number
    with pytest.raises(LookupError):
        next(results)
    assert threading.active_count() == before
