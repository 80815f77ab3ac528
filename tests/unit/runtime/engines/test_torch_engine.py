"""The engine torch on the CPU: programs of mlserve's own and of anybody's."""

import io
import sys
import threading
import warnings
import zipfile

import numpy as np
import pytest

from mlserve_cli.graph import from_torch
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.errors import EngineError, InvalidRequest
from mlserve_cli.runtime.tensors import TensorSpec

torch = pytest.importorskip("torch")


@pytest.fixture
def load():
    loaded = []

    def run(path, **options):
        loaded.append(engines.load("torch", path, EngineOptions(**options)))
        return loaded[-1]

    yield run
    for engine in loaded:
        engine.close()


class Dict(torch.nn.Module):
    def forward(self, x, /):
        return {"twice": x * 2, "none": None, "half": (x / 2).to(torch.bfloat16)}


class Pair(torch.nn.Module):
    def forward(self, x):
        return x, x[:, 1:]


class Nested(torch.nn.Module):
    def forward(self, pair):
        return pair[0] + pair[1]


BATCH = torch.export.Dim("batch", min=1, max=4096)
X = torch.arange(8.0).reshape(2, 4)


@pytest.mark.parametrize("count", [1, 2, 7, 11])
def test_it_answers_as_the_module_does_at_every_batch(load, program, net, rows, count):
    batch = {name: array[:count] for name, array in rows.items()}
    found = load(program).run(batch)
    expected = from_torch.run(net, batch)
    np.testing.assert_allclose(found["scores"], expected["output_0"], rtol=1e-6)
    np.testing.assert_array_equal(found["reversed"], expected["output_1"])


def test_names_and_free_dimensions_are_those_that_were_asked_for(load, program):
    engine = load(program)
    assert engine.inputs == (
        TensorSpec("ids", "INT64", ("batch", "length")),
        TensorSpec("mask", "FP32", ("batch", "length")),
    )
    assert engine.outputs == (
        TensorSpec("scores", "FP32", ("batch", 3)),
        TensorSpec("reversed", "INT64", ("batch", "length")),
    )


def test_another_length_than_the_sample_runs(load, program, net):
    batch = {"ids": np.array([[3, 1]]), "mask": np.ones((1, 2), np.float32)}
    found = load(program).run(batch)["scores"]
    np.testing.assert_allclose(found, from_torch.run(net, batch)["output_0"], rtol=1e-6)


@pytest.mark.parametrize("wrong", [50, -1])
def test_an_index_that_no_table_has_is_the_clients_mistake(load, program, rows, wrong):
    ids = rows["ids"].copy()
    ids[2, 3] = wrong
    with pytest.raises(InvalidRequest, match=f"'ids' holds {wrong}, and the model takes 0 to 49"):
        load(program).run({"ids": ids, "mask": rows["mask"]})


def test_an_index_that_the_model_computes_is_the_clients_mistake_too(load, saved):
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(4, 2)

        def forward(self, x):
            return self.table(x + 1)

    engine = load(saved(Shifted(), torch.tensor([[0], [1]]), dynamic_shapes={"x": {0: BATCH}}))
    with pytest.raises(InvalidRequest, match="no index that the model has"):
        engine.run({"x": np.array([[3]])})


def test_a_program_that_its_author_saved_is_named_by_its_forward(load, saved):
    engine = load(saved(Dict(), X, dynamic_shapes=({0: BATCH},)))
    assert [spec.name for spec in engine.inputs] == ["x"]
    assert [(spec.name, spec.datatype) for spec in engine.outputs] == [
        ("twice", "FP32"),
        ("half", "FP32"),
    ]
    assert engine.inputs[0].shape == ("batch", 4)
    found = engine.run({"x": np.ones((3, 4), np.float32)})
    assert found["twice"].tolist() == [[2.0] * 4] * 3
    assert found["half"].dtype == np.float32
    assert found["half"][0, 0] == 0.5


def test_a_batch_of_one_size_is_what_the_signature_says(load, saved):
    engine = load(saved(Pair(), X))
    assert engine.inputs == (TensorSpec("x", "FP32", (2, 4)),)
    assert [spec.shape for spec in engine.outputs] == [(2, 4), (2, 3)]


def test_an_answer_never_shares_memory_with_the_batch_it_answers(load, saved):
    engine = load(saved(Pair(), X, dynamic_shapes={"x": {0: BATCH}}))
    batch = np.ones((2, 4), np.float32)
    found = engine.run({"x": batch})
    batch[...] = 7  # as the next batch would
    assert found["output_0"].tolist() == [[1.0] * 4] * 2
    assert found["output_1"].tolist() == [[1.0] * 3] * 2


def test_a_view_of_a_requests_body_is_taken_without_a_warning(load, saved):
    engine = load(saved(Pair(), X, dynamic_shapes={"x": {0: BATCH}}))
    body = np.frombuffer(bytes(16), np.float32).reshape(1, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert engine.run({"x": body})["output_0"].tolist() == [[0.0] * 4]


def test_lists_of_tensors_are_refused(saved):
    path = saved(Nested(), (X, X))
    with pytest.raises(EngineError, match="takes lists or dicts of tensors"):
        engines.load("torch", path)


def test_example_inputs_that_could_run_code_are_never_loaded(saved, tmp_path):
    import pickle  # noqa: TID251  what an attacker would write

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    path, evil = saved(Pair(), X), tmp_path / "evil.pt2"
    buffer = io.BytesIO()
    torch.save(Evil(), buffer, pickle_module=pickle)
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(evil, "w") as after:
        for member in before.infolist():
            sample = member.filename.endswith("sample_inputs/model.pt")
            after.writestr(member, buffer.getvalue() if sample else before.read(member))
    with pytest.raises(EngineError, match=r"the example inputs in .* are more than tensors"):
        engines.load("torch", evil)
    assert not (tmp_path / "touched").exists()


def test_each_thread_that_runs_it_takes_the_threads_of_the_options(load, program, rows):
    engine = load(program, threads=1)
    seen = []

    def work():
        engine.run(rows)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1]


def test_without_pytorch_the_sentence_says_what_to_install(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match="the engine 'torch' is not installed"):
        engines.load("torch", program)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence(program):
    with pytest.raises(EngineError, match="device 'cuda:0' was asked for, but this PyTorch sees"):
        engines.load("torch", program, EngineOptions(device="cuda:0"))
    assert engines.find("torch").devices(program) == ("cpu",)


def test_on_the_cpu_nothing_is_said_of_a_memory_of_its_own(load, program):
    assert load(program).free_bytes() == 0
