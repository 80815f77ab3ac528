"""OpenVINO's plugin runs on some CPUs alone; a fake stands in for it where it does not."""

from typing import ClassVar

import numpy as np
import pytest

from mlserve_cli.errors import EngineError, StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import BfloatStep
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import onnxruntime
from mlserve_cli.runtime.manifest import read

ROWS = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float32)


class Fake(onnxruntime.OnnxRuntimeEngine):
    """Remembers the precision that it was asked for."""

    asked: ClassVar[list[str]] = []

    def _configure(self, ort, settings, options):
        self.asked.append(options.precision)


class Missing:
    def __init__(self, model, options):
        raise EngineError("OpenVINO found no CPU device that it can run on.")


@pytest.fixture
def openvino(monkeypatch):
    def put(engine):
        real = engines.find
        monkeypatch.setattr(
            engines, "find", lambda name: engine if name == "openvino" else real(name)
        )
        Fake.asked = []

    return put


def test_a_package_of_onnx_is_handed_to_openvino_which_is_told_the_precision(
    make_mlp, pack, tmp_path, openvino
):
    openvino(Fake)
    parent = pack(make_mlp(), {"x": ROWS})
    made = run(BfloatStep(), parent, tmp_path / "bf16", progress=Silent())
    manifest = made.manifest
    assert (manifest.engine, manifest.precision) == ("openvino", "bf16")
    assert manifest.variant == "bf16"
    assert made.model.read_bytes() == parent.model.read_bytes()
    made.engine().close()
    assert set(Fake.asked) == {"bf16"}
    assert read(made.path) == manifest  # the digest covers the precision


def test_a_machine_without_openvino_is_told_so_before_anything_is_written(
    make_mlp, pack, tmp_path, openvino
):
    openvino(Missing)
    parent = pack(make_mlp(), {"x": ROWS})
    with pytest.raises(StepError, match="through OpenVINO, and OpenVINO found no CPU") as error:
        run(BfloatStep(), parent, tmp_path / "bf16", progress=Silent())
    assert "--engine torch" in error.value.hint
    assert not (tmp_path / "bf16").exists()


def test_a_float32_package_has_the_digest_that_it_had_before_there_were_precisions(make_mlp, pack):
    import msgspec

    manifest = pack(make_mlp(), {"x": ROWS}).manifest
    assert manifest.precision == "fp32"
    other = msgspec.structs.replace(manifest, precision="bf16")
    assert other.computed_digest() != manifest.digest == manifest.computed_digest()


def test_a_torch_module_takes_and_answers_float32():
    import torch

    from mlserve_cli.quantize.bfloat import in_bfloat16

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    rows = torch.from_numpy(ROWS)
    with torch.inference_mode():
        expected = module(rows)
        half = in_bfloat16(module)
        found = half(rows)
        assert next(half.parameters()).dtype == torch.bfloat16
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
        exported = torch.export.export(
            half, (rows,), dynamic_shapes=({0: torch.export.Dim("batch", max=65536)},)
        )
        torch.testing.assert_close(exported.module()(rows[:5]), found[:5])
