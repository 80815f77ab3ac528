import numpy as np

from mlserve_cli.package.rows import cast
from mlserve_cli.runtime.tensors import TensorSpec

SPECS = (TensorSpec("x", "FP32", ("batch", 2)), TensorSpec("ids", "INT64", ("batch",)))


def test_float64_becomes_what_the_model_takes_in_the_order_of_its_inputs():
    found = cast({"ids": np.array([1], np.int32), "x": np.array([[0.5, 1.5]])}, SPECS)

    assert list(found) == ["x", "ids"]
    assert found["x"].dtype == np.float32
    assert found["ids"].dtype == np.int64
    assert found["x"].tolist() == [[0.5, 1.5]]


def test_floats_for_a_whole_number_input_stay_for_the_check_to_refuse():
    found = cast({"ids": np.array([1.5])}, SPECS)

    assert found["ids"].dtype == np.float64
