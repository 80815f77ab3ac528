import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import DynamicStep

ROWS = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)


def quantize(parent, target, **options):
    return run(DynamicStep(**options), parent, target, progress=Silent())


def test_every_product_runs_as_an_int8_kernel(make_mlp, pack, tmp_path):
    made = quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8")
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (2, 0)
    assert made.manifest.variant == "int8-dynamic"
    assert made.manifest.finite_inputs


def test_a_shared_scale_is_found_out_and_rows_are_served_alone(make_mlp, pack, tmp_path):
    made = quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8")
    assert not made.manifest.batch.invariant
    assert made.manifest.batch.max_batch == 1


def test_the_same_model_gives_the_same_bytes(make_mlp, pack, tmp_path):
    parent = pack(make_mlp(), {"x": ROWS})
    one, two = (quantize(parent, tmp_path / name) for name in ("one", "two"))
    assert one.model.read_bytes() == two.model.read_bytes()


def test_an_excluded_product_stays_in_float(make_mlp, pack, tmp_path):
    made = quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", exclude=["first"])
    (facts,) = made.evidence("int8-kernels")
    assert (facts["int8_nodes"], facts["float_nodes"]) == (1, 1)


def test_excluding_what_is_not_there_is_an_error(make_mlp, pack, tmp_path):
    with pytest.raises(StepError, match="'third' cannot be excluded"):
        quantize(pack(make_mlp(), {"x": ROWS}), tmp_path / "int8", exclude=["third"])
    assert not (tmp_path / "int8").exists()
