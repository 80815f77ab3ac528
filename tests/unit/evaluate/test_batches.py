import numpy as np
import pytest

from mlserve_cli.errors import DataError, MlserveError, StepError
from mlserve_cli.evaluate.batches import LIMIT_ROWS, run_rows
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.tensors import TensorSpec


def _x(count):
    return {"x": np.arange(count * 2, dtype=np.float32).reshape(count, 2)}


def test_a_package_that_is_not_batch_invariant_is_run_row_by_row(make_package, make_engine):
    engine = make_engine()
    package = make_package(batch=BatchProof(invariant=False, reason="shares a scale"))
    outputs = run_rows(engine, package.manifest, _x(5))
    assert engine.sizes == [1, 1, 1, 1, 1]
    assert np.array_equal(outputs["scores"], _x(5)["x"])


def test_a_large_batch_is_cut_so_that_memory_stays_bounded(make_package, make_engine):
    engine = make_engine()
    outputs = run_rows(engine, make_package().manifest, _x(2 * LIMIT_ROWS + 3))
    assert engine.sizes == [LIMIT_ROWS, LIMIT_ROWS, 3]
    assert np.array_equal(outputs["scores"], _x(2 * LIMIT_ROWS + 3)["x"])


def test_a_fixed_batch_is_filled_up_and_the_filling_is_thrown_away(make_package, make_engine):
    engine = make_engine()
    package = make_package(
        inputs=(TensorSpec("x", "FP32", (4, 2)),), batch=BatchProof(invariant=False)
    )
    outputs = run_rows(engine, package.manifest, _x(6))
    assert engine.sizes == [4, 4]
    assert np.array_equal(outputs["scores"], _x(6)["x"])


def test_wider_floats_are_narrowed_to_what_the_model_takes(make_package, make_engine):
    seen = []
    engine = make_engine(lambda tensors: seen.append(tensors["x"].dtype) or {"s": tensors["x"]})
    run_rows(engine, make_package().manifest, {"x": np.ones((2, 2))})
    assert seen == [np.float32]


def test_floats_for_an_integer_input_are_refused(make_package, make_engine):
    package = make_package(inputs=(TensorSpec("x", "INT64", ("batch", 2)),))
    with pytest.raises(MlserveError, match="'x' data-type is 'FP32'"):
        run_rows(make_engine(), package.manifest, _x(2))


def test_an_engine_that_raises_becomes_a_sentence(make_package, make_engine):
    def answer(tensors):
        raise RuntimeError("dimension 3 is wrong\nlots of detail")

    with pytest.raises(StepError, match=r"fails on 2 rows of the data: dimension 3 is wrong[.]$"):
        run_rows(make_engine(answer), make_package().manifest, _x(2))


def test_an_output_without_a_row_for_each_row_is_refused(make_package, make_engine):
    engine = make_engine(lambda tensors: {"scores": np.float32(1.0)})
    with pytest.raises(StepError, match=r"output 'scores' .* shape \(\) for 2 rows"):
        run_rows(engine, make_package().manifest, _x(2))


def test_a_batch_without_rows_is_refused(make_package, make_engine):
    with pytest.raises(DataError, match="no rows"):
        run_rows(make_engine(), make_package().manifest, _x(0))


def test_a_model_that_takes_a_request_only_whole_is_a_sentence(make_package, make_engine):
    state = TensorSpec("state", "FP32", (2, "batch", 8))
    package = make_package(inputs=(TensorSpec("x", "FP32", ("batch", 2)), state))
    rows = {**_x(2), "state": np.zeros((2, 2, 8), np.float32)}
    with pytest.raises(StepError, match="cannot be judged row by row"):
        run_rows(make_engine(), package.manifest, rows)
