import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.prune import zeros


@pytest.mark.parametrize(("kind", "share"), [("2:4", 0.5), ("unstructured", 0.8)])
def test_zeros_are_refused_with_a_measurement_of_this_very_model(mixed_package, kind, share):
    reason = zeros.refuse(kind, mixed_package, Silent())
    assert isinstance(reason, StepError)
    assert f"with {share:.0%} of the weights at zero this model runs" in reason.message
    assert "ms at batch 1" in reason.message
    assert ("sm_80" in reason.message) == (kind == "2:4")


def test_the_copy_that_is_timed_really_holds_the_pattern(mixed_package, tmp_path):
    import onnx
    from onnx import numpy_helper

    assert zeros.write(mixed_package.model, tmp_path / "model.onnx", "2:4") == 0.5
    heavy = [
        numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "model.onnx").graph.initializer
        if len(each.dims) == 4
    ]
    assert heavy
    for array in heavy:
        fours = array.reshape(-1)[: array.size // 4 * 4].reshape(-1, 4)
        assert (np.count_nonzero(fours, axis=1) == 2).all()


def test_another_sparsity_is_refused_by_its_name(mixed_package):
    with pytest.raises(StepError, match="'1:8' is no sparsity"):
        zeros.refuse("1:8", mixed_package, Silent())
