"""What an engine says of a file, a class or a row that it cannot take."""

import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from mlserve_cli.runtime import engines
from mlserve_cli.runtime.errors import EngineError, InvalidRequest, PackageError
from mlserve_cli.runtime.manifest import BatchProof


def test_bytes_that_are_no_text_are_the_clients_mistake(tmp_path):
    from onnx import TensorProto, helper, save

    tensor = helper.make_tensor_value_info("x", TensorProto.STRING, ["batch"])
    out = helper.make_tensor_value_info("y", TensorProto.STRING, ["batch"])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "text", [tensor], [out])
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "text.onnx")
    engine = engines.load("onnxruntime", tmp_path / "text.onnx")
    rows = np.array(["a\0é".encode()], dtype=np.object_)
    assert engine.run({"x": rows})["y"].tolist() == rows.tolist()
    with pytest.raises(InvalidRequest, match="input 'x' holds bytes that are no UTF-8"):
        engine.run({"x": np.array([b"\xff"], dtype=np.object_)})
    engine.close()


@pytest.fixture
def lookup(tmp_path):
    """Write a model that looks numbers up in a table of five rows, with the operator given."""
    from onnx import TensorProto, helper, numpy_helper, save

    def load(operator, *inner):
        table = numpy_helper.from_array(np.arange(10, dtype=np.float32).reshape(5, 2), "table")
        ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", *inner])
        found = helper.make_tensor_value_info("found", TensorProto.FLOAT, None)
        node = helper.make_node(operator, ["table", "ids"], ["found"])
        graph = helper.make_graph([node], "lookup", [ids], [found], [table])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        save(model, tmp_path / "lookup.onnx")
        return engines.load("onnxruntime", tmp_path / "lookup.onnx")

    return load


@pytest.mark.parametrize(
    ("operator", "inner", "message"),
    [
        ("Gather", (), "a value of the request is 7, and the model takes indices from 0 to 4"),
        ("GatherND", (1,), "no index that the model has"),
        ("GatherElements", (2,), "no index that the model has"),
    ],
)
@pytest.mark.parametrize("bound", [None, ("cpu", 0)])
def test_an_index_that_no_table_has_is_the_clients_mistake(
    lookup, capfd, operator, inner, message, bound
):
    engine = lookup(operator, *inner)
    engine._bound_to = bound
    with pytest.raises(InvalidRequest, match=message):
        engine.run({"ids": np.full((1, *inner), 7)})
    assert engine.run({"ids": np.full((1, *inner), 1)})["found"].size
    engine.close()
    assert capfd.readouterr().err == ""  # and ONNX Runtime writes no lines of its own


def test_bound_memory_gives_the_same_bits(iris, iris_onnx):
    engine = engines.load("onnxruntime", iris_onnx)
    rows = {"x": iris[0]}
    expected = engine.run(rows)["scores"]
    engine._bound_to = ("cpu", 0)  # the same calls that a GPU is bound with
    assert np.array_equal(engine.run(rows)["scores"], expected)
    assert np.array_equal(engine.run({"x": iris[0][::2]})["scores"], expected[::2])
    engine.close()


def test_cuda_that_onnx_runtime_was_not_built_with_is_a_sentence(iris_onnx):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match="'cuda:0' was asked for, but this ONNX Runtime has no"):
        engines.load("onnxruntime", iris_onnx, engines.EngineOptions(device="cuda:0"))


@pytest.mark.parametrize("name", engines.ENGINES)
def test_every_engine_of_the_table_says_where_it_runs(name, iris_onnx, request):
    if name == "torch":
        pytest.importorskip("torch")
        with pytest.raises(EngineError, match=r"no whole \.pt2 file"):
            engines.find(name).devices(iris_onnx)
        return
    if name == "ensemble":  # it asks its members
        with pytest.raises(PackageError, match=r"ensemble\.json' cannot be read"):
            engines.find(name).devices(iris_onnx)
        return
    assert engines.find(name).devices(iris_onnx)[-1] == "cpu"


def test_a_package_prepares_its_engine_for_no_batch_that_it_rules_out(
    iris_package, fake_engine, monkeypatch
):
    package = iris_package(engine=fake_engine())
    options = engines.EngineOptions(batches=(1, 2, 4), device="cuda:0")
    proven = engines.open_package(package.path, package.manifest, options)
    alone = msgspec.structs.replace(
        package.manifest, batch=BatchProof(invariant=False, reason="dynamic int8")
    )
    single = engines.open_package(package.path, alone, options)

    assert proven.options.batches == (1, 2, 4)
    assert single.options.batches == (1,)
    assert proven.options.device == "cpu"  # the class says nothing of GPUs


def test_an_engine_of_the_users_own_that_fails_is_a_sentence(tmp_path, monkeypatch):
    def refuse(model, options):
        raise TypeError("not like this")

    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(Engine=refuse))
    with pytest.raises(EngineError, match=r"'theirs:Engine' cannot load .*: TypeError: not like"):
        engines.load("theirs:Engine", tmp_path)


def test_an_engine_of_the_users_own_that_ends_the_process_is_a_sentence(tmp_path, monkeypatch):
    def leave(model, options):
        sys.exit(3)

    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(Engine=leave))
    with pytest.raises(EngineError, match=r"'theirs:Engine' cannot load .*: SystemExit: 3"):
        engines.load("theirs:Engine", tmp_path)


@pytest.mark.parametrize("text", ["1 / 0", "def (", "raise SystemExit(3)", "import nothing_here"])
def test_a_module_of_an_engine_that_cannot_be_imported_is_a_sentence(tmp_path, monkeypatch, text):
    (tmp_path / "own_engine_of_a_test.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match="'own_engine_of_a_test:Engine' cannot be imported"):
        engines.load("own_engine_of_a_test:Engine", tmp_path)


@pytest.mark.parametrize("name", [":", ":Class", "no.such.module:Class", "json:Nothing", "nope"])
def test_an_engine_that_is_not_there_is_a_sentence(name, tmp_path):
    with pytest.raises(EngineError):
        engines.load(name, tmp_path)
