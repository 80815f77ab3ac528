# ruff: noqa: TID253
import json
import shutil
import sys

import pytest
import torch

from mlserve_cli.errors import DefinitionError
from mlserve_cli.training import source

TIED = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(4, 4)
        self.outside = nn.Linear(4, 4)
        self.outside.weight = self.inside.weight
        self.part = nn.Parameter(torch.rand(8)[:4])

    def forward(self, x):
        return self.outside(torch.relu(self.inside(x))) * self.part

def model(): return Tied()
def sample(): return torch.ones(3, 4)
"""

BESIDE = """
import torch
from beside_{name} import Net
FILES = {files}
def model(): return Net()
def sample(): return torch.ones(3, 4)
"""


def read(folder):
    return source._load(folder)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_module_comes_back_with_its_weights_in_eval_mode(mixed, tmp_path):
    torch.manual_seed(7)
    module = mixed.function("architecture")()
    source.write(tmp_path / "source", mixed, module, entry="model")
    found = read(tmp_path / "source")
    images = torch.tensor(mixed.function("sample")())
    with torch.inference_mode():
        assert torch.equal(found.module(images), module.eval()(images))
    assert not found.module.training
    assert (found.entry, found.history, found.input_names) == ("architecture", [], ("image",))


def test_another_memory_layout_is_no_difference(mixed, tmp_path):
    module = mixed.function("model")().to(memory_format=torch.channels_last)
    source.write(tmp_path / "source", mixed, module)
    assert torch.equal(read(tmp_path / "source").module.inner.weight, module.inner.weight)


def test_nothing_but_the_sources_is_written_and_the_same_bytes_each_time(mixed, tmp_path):
    module = mixed.function("model")()
    for folder in ("one", "two"):
        source.write(tmp_path / folder, mixed, module)
    assert names(tmp_path / "one") == ["definition.py", "source.json", "weights.safetensors"]
    for name in names(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_writing_leaves_the_import_system_as_it_was(mixed, tmp_path):
    paths, modules = list(sys.path), set(sys.modules)
    source.write(tmp_path / "source", mixed, mixed.function("model")())
    assert sys.path == paths
    assert not {name for name in set(sys.modules) - modules if "definition" in name}


def test_tied_tensors_are_stored_once_and_views_as_what_they_show(write_definition, tmp_path):
    definition = write_definition(TIED)
    module = definition.function("model")()
    source.write(tmp_path / "source", definition, module)
    facts = json.loads((tmp_path / "source" / source.SOURCE_JSON).read_text())
    assert facts["shared"] == {"outside.weight": "inside.weight"}
    found = read(tmp_path / "source").module
    assert found.outside.weight is found.inside.weight
    assert torch.equal(found(torch.ones(1, 4)), module(torch.ones(1, 4)))


def test_a_definition_of_no_torch_module_travels_alone(write_definition, tmp_path):
    definition = write_definition("FILES = ['words.txt']\ndef model(): pass\n")
    (definition.path.parent / "words.txt").write_text("a b")
    source.write(tmp_path / "source", definition, None)
    assert names(tmp_path / "source") == ["definition.py", "words.txt"]


def net(name):
    return (
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(4, 2)\n"
        f"    def forward(self, x): return super().forward(x)  # {name}\n"
    )


@pytest.mark.parametrize("listed", [True, False])
def test_a_module_beside_the_definition_must_stand_in_files(write_definition, tmp_path, listed):
    name = f"files_{listed}".lower()
    folder = tmp_path / "definition"
    folder.mkdir()
    (folder / f"beside_{name}.py").write_text(net(name))
    files = [f"beside_{name}.py"] if listed else []
    definition = write_definition(BESIDE.format(name=name, files=files))
    try:
        module = definition.function("model")()
        if listed:
            source.write(tmp_path / "source", definition, module)
            assert f"beside_{name}.py" in names(tmp_path / "source")
        else:
            with pytest.raises(DefinitionError, match=f"beside_{name}") as caught:
                source.write(tmp_path / "source", definition, module)
            assert "FILES" in caught.value.hint
        assert sys.modules[f"beside_{name}"].__file__ == str(folder / f"beside_{name}.py")
    finally:
        sys.modules.pop(f"beside_{name}", None)


def test_a_model_with_a_state_outside_its_state_dict_is_refused(write_definition, tmp_path):
    definition = write_definition(
        "import torch, itertools\n"
        "count = itertools.count(1)\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(4, 2)\n"
        "        self.scale = float(torch.rand(()))\n"
        "    def forward(self, x): return super().forward(x) * self.scale\n"
        "def model(): return Net()\n"
        "def sample(): return torch.ones(3, 4)\n"
    )
    with pytest.raises(DefinitionError, match="answers differently") as caught:
        source.write(tmp_path / "source", definition, definition.function("model")())
    assert "architecture()" in caught.value.hint


def test_an_architecture_that_the_weights_do_not_fit_is_refused(write_definition, tmp_path):
    definition = write_definition(
        replace=[("def architecture():\n    return Mixed()", "def architecture(): return Mixed(8)")]
    )
    with pytest.raises(DefinitionError, match="cannot be rebuilt") as caught:
        source.write(tmp_path / "source", definition, definition.function("model")())
    assert "size mismatch" in caught.value.message


def test_a_file_that_has_the_packages_own_name_is_refused(write_definition, tmp_path):
    definition = write_definition(replace=[("LABELS", 'FILES = ["weights.safetensors"]\nLABELS')])
    (definition.path.parent / "weights.safetensors").write_bytes(b"")
    with pytest.raises(DefinitionError, match=r"weights\.safetensors"):
        source.write(tmp_path / "source", definition, definition.function("model")())


def test_the_source_is_enough_once_the_definition_is_gone(mixed, tmp_path):
    module = mixed.function("model")()
    source.write(tmp_path / "source", mixed, module)
    shutil.rmtree(mixed.path.parent)
    assert torch.equal(read(tmp_path / "source").module.head.weight, module.head.weight)
    assert not (tmp_path / "source" / "__pycache__").exists()


def test_names_are_found_without_running_the_definition(tmp_path):
    path = tmp_path / "definition.py"
    path.write_text(
        "from x import training\nimport a.b\nstudent, other = 1, 2\n"
        "y: int = 3\ndef f(): pass\nclass C: pass\n"
    )
    assert source._names(path) == {"training", "a", "student", "other", "y", "f", "C"}
