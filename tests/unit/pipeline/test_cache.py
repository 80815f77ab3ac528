from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.pipeline import cache
from mlserve_cli.search.candidate import StepChoice

PARENT = SimpleNamespace(manifest=SimpleNamespace(digest="sha256:0"))
STEP = StepChoice(step="prune", parameters={"ratio": 0.5})
ROWS = [{"x": np.arange(4, dtype=np.float32)}]


@pytest.mark.parametrize("library", ["torch-pruning", "onnxscript", "skl2onnx", "onnxruntime"])
def test_another_version_of_a_library_that_makes_a_step_is_another_result(monkeypatch, library):
    before = cache.key(PARENT, STEP, ROWS)
    assert cache.key(PARENT, STEP, ROWS) == before
    version = cache._version
    monkeypatch.setattr(cache, "_version", lambda name: "99" if name == library else version(name))
    assert cache.key(PARENT, STEP, ROWS) != before


def test_other_parameters_and_other_rows_are_another_result():
    before = cache.key(PARENT, STEP, ROWS)
    other = StepChoice(step="prune", parameters={"ratio": 0.4})
    assert cache.key(PARENT, other, ROWS) != before
    assert cache.key(PARENT, STEP, [{"x": np.arange(4, dtype=np.float64)}]) != before
    assert cache.key(PARENT, STEP, None) != before


@pytest.mark.parametrize("parameter", cache.FILES)
def test_other_contents_of_a_file_that_a_parameter_names_are_another_result(tmp_path, parameter):
    path = tmp_path / "rows.npz"
    step = StepChoice(step="distill", parameters={parameter: str(path)})
    keys = set()
    for value in (0.0, 1.0, 1.0):
        np.savez(path, x=np.full(3, value))
        keys.add(cache.key(PARENT, step, ROWS))
    assert len(keys) == 2
    assert cache.repeats(step)


def test_a_step_that_names_code_is_made_anew_each_time():
    step = StepChoice(step="distill", parameters={"teacher": "large.py:model"})
    assert not cache.repeats(step)
    assert cache.repeats(StepChoice(step="distill", parameters={"teacher": "packages/large"}))
