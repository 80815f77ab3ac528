"""int8 on a network that was trained on real digits: its decisions and its kernels."""

import numpy as np
import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import DynamicStep, StaticStep


def batches(images, size=96):
    for start in range(0, len(images), size):
        yield {"x": images[start : start + size]}


@pytest.fixture
def static(residual_package, digits, tmp_path):
    step = StaticStep(batches(digits.train[0]))
    return run(step, residual_package, tmp_path / "static", progress=Silent())


def decisions(package, images):
    engine = package.engine()
    logits = engine.run({"x": images})["logits"]
    engine.close()
    return logits.argmax(axis=1)


def test_static_int8_decides_as_the_float_model_on_held_out_digits(
    static, residual_package, digits
):
    images, truth = digits.test
    before, after = (decisions(package, images) for package in (residual_package, static))
    assert np.mean(before == truth) > 0.9  # or the comparison would say nothing
    assert np.mean(after == before) >= 0.98
    assert np.mean(before == truth) - np.mean(after == truth) <= 0.01


def test_norms_are_folded_and_the_whole_network_stays_in_int8(static):
    (facts,) = static.evidence("int8-kernels")
    nodes = facts["nodes"]
    assert facts["int8_share"] == 1.0
    assert nodes["QLinearConv"] == 3
    assert nodes["QLinearAdd"] == 1
    assert nodes["QGemm"] == 1
    assert {"Relu", "BatchNormalization", "Conv", "DequantizeLinear"}.isdisjoint(nodes)


def test_the_float_source_travels_along(static, residual_package):
    assert (static.source / "definition.py").read_bytes() == (
        residual_package.source / "definition.py"
    ).read_bytes()


def test_the_result_is_whole_and_smaller(static, residual_package):
    from mlserve_cli.package.verify import verify

    assert [check.name for check in verify(static.path) if not check.passed] == []
    assert static.size_bytes < 0.7 * residual_package.size_bytes


def test_a_row_alone_is_answered_as_among_outliers(static, digits):
    images = digits.test[0][:4].copy()
    engine = static.engine()
    alone = engine.run({"x": images[:1]})["logits"]
    images[1:] = 1e4
    together = engine.run({"x": images})["logits"]
    engine.close()
    np.testing.assert_allclose(together[:1], alone, atol=1e-2 * np.abs(alone).max())


def test_dynamic_leaves_convolutions_alone_and_takes_the_head(residual_package, digits, tmp_path):
    made = run(DynamicStep(), residual_package, tmp_path / "dynamic", progress=Silent())
    (facts,) = made.evidence("int8-kernels")
    assert facts["nodes"]["DynamicQuantizeMatMul"] == 1
    assert facts["float_nodes"] == 3
    images = digits.test[0]
    one_by_one = np.concatenate([decisions(made, images[row : row + 1]) for row in range(100)])
    agreement = np.mean(one_by_one == decisions(residual_package, images[:100]))
    assert agreement >= 0.98
