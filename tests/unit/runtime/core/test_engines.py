"""What an engine says of a file, a class or a row that it cannot take."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from mlserve_cli.runtime import engines
from mlserve_cli.runtime.errors import EngineError, InvalidRequest


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


def test_an_engine_of_the_users_own_that_fails_is_a_sentence(tmp_path, monkeypatch):
    def refuse(model, options):
        raise TypeError("not like this")

    monkeypatch.setitem(sys.modules, "theirs", SimpleNamespace(Engine=refuse))
    with pytest.raises(EngineError, match=r"'theirs:Engine' cannot load .*: TypeError: not like"):
        engines.load("theirs:Engine", tmp_path)


@pytest.mark.parametrize("name", [":", ":Class", "no.such.module:Class", "json:Nothing", "nope"])
def test_an_engine_that_is_not_there_is_a_sentence(name, tmp_path):
    with pytest.raises(EngineError):
        engines.load(name, tmp_path)
