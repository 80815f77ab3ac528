"""The engine torch, ONNX Runtime and sizing on a real GPU; they run where there is one."""

import threading
from pathlib import Path

import numpy as np
import pytest

from mlserve_cli.runtime import engines, hardware, sizing
from mlserve_cli.runtime.engines import EngineOptions

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

DEFINITION = """
import torch
from torch import nn
NAME = "vision"
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )
def sample():
    torch.manual_seed(1)
    return {"input": torch.randn(8, 3, 32, 32)}
"""

LOOKUP = """
import torch
from torch import nn
NAME = "lookup"
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)
    def forward(self, ids):
        return self.table(ids).sum(1)
def model():
    torch.manual_seed(0)
    return Net()
def sample():
    return {"ids": torch.arange(40).reshape(8, 5)}
"""


@pytest.fixture
def packaged(tmp_path):
    from mlserve_cli.export.export import export

    def make(engine, text=DEFINITION, device="cpu"):
        folder = tmp_path / f"source-{engine}"
        folder.mkdir()
        (folder / "model.py").write_text(text)
        target = tmp_path / f"package-{engine}"
        return export(str(folder / "model.py"), target, engine=engine, device=device)

    return make


@pytest.fixture
def load():
    loaded = []

    def run(package, **options):
        found = EngineOptions(device="cuda:0", **options)
        loaded.append(engines.open_package(package.path, package.manifest, found))
        return loaded[-1]

    yield run
    for engine in loaded:
        engine.close()


def batch(count, seed=0):
    random = np.random.default_rng(seed)
    return {"input": random.standard_normal((count, 3, 32, 32), dtype=np.float32)}


def on_cpu(package, rows):
    engine = engines.open_package(package.path, package.manifest, EngineOptions(device="cpu"))
    try:
        return engine.run(rows)
    finally:
        engine.close()


def close(found, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_graphs_answer_as_the_cpu_does_at_every_batch(packaged, load, count):
    package = packaged("torch")
    engine = load(package, batches=(1, 2, 4, 8))
    close(engine.run(batch(count)), on_cpu(package, batch(count)))


def test_every_size_that_was_named_is_recorded_once(packaged, load):
    engine = load(packaged("torch"), batches=(1, 2, 4, 8))
    lane = engine._free.get()
    assert lane.recorded == (1, 2, 4, 8)
    engine._free.put(lane)


def test_streams_side_by_side_never_mix_their_answers(packaged, load):
    package = packaged("torch")
    engine = load(package, batches=(1, 2, 4, 8), streams=2)
    wrong = []

    rows_of = {seed: batch(8, seed)["input"] for seed in range(4)}
    on_cpu_once = {
        seed: next(iter(on_cpu(package, {"input": rows}).values()))
        for seed, rows in rows_of.items()
    }

    def work(seed):
        for step in range(50):
            count = 1 + (seed + step) % 8
            found = engine.run({"input": rows_of[seed][:count]})
            expected = on_cpu_once[seed][:count]
            if not np.allclose(next(iter(found.values())), expected, rtol=1e-4, atol=1e-5):
                wrong.append((seed, step))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_index_that_no_table_has_leaves_the_gpu_usable(packaged, load):
    from mlserve_cli.runtime.errors import InvalidRequest

    engine = load(packaged("torch", LOOKUP), batches=(1, 2))
    with pytest.raises(InvalidRequest):
        engine.run({"ids": np.full((1, 5), 50)})
    assert engine.run({"ids": np.zeros((1, 5), np.int64)})


@pytest.mark.slow
def test_a_model_compiled_for_the_gpu_answers_as_its_program(packaged, load):
    program = packaged("torch")
    compiled = packaged("torch-aoti", device="cuda")
    engine = load(compiled, batches=(1, 2, 4, 8), streams=2)
    for count in (1, 3, 8, 11):
        close(engine.run(batch(count)), on_cpu(program, batch(count)))


def test_memory_comes_back_when_an_engine_is_closed(packaged):
    package = packaged("torch")
    options = EngineOptions(device="cuda:0", batches=(1, 64))

    def visit():
        engine = engines.open_package(package.path, package.manifest, options)
        engine.run(batch(64))
        engine.close()

    visit()  # CUDA itself keeps what its first use took
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    visit()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= before


def test_a_model_is_sized_by_what_the_gpu_answers(packaged):
    package = packaged("torch")
    found = sizing.measure(package.path, package.manifest, hardware.detect(), budget_s=0.5)
    assert found.device in ("cuda", "cpu")  # a small model may be the CPU's
    assert found.reasons["max_batch"]
    if found.device == "cuda":
        assert found.max_batch > 1


def test_onnx_runtime_answers_on_cuda_as_on_the_cpu(packaged, load):
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    package = packaged("onnxruntime")
    engine = load(package)
    for count in (1, 3, 8):
        close(engine.run(batch(count)), on_cpu(package, batch(count)))


def test_a_package_of_the_cpu_answers_on_the_gpu_within_its_tolerance(packaged, load):
    from mlserve_cli.runtime import golden

    package = packaged("torch")
    proof = golden.read(Path(package.serve))
    found = load(package, batches=(8,)).run(proof.inputs)
    for name, expected in proof.outputs.items():
        difference = golden.relative_difference(expected, found[name])
        assert difference <= package.manifest.tolerance
