"""A model that is too large for memory is refused before any work, with both figures."""

from types import SimpleNamespace

import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.export import memory
from mlserve_cli.export.export import export
from mlserve_cli.runtime import hardware


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(hardware, "detect", lambda: SimpleNamespace(memory_bytes=300_000_000))


@pytest.mark.parametrize("kind", ["onnx", "onnx with data beside it", "folder", "pt2"])
def test_what_does_not_fit_is_refused_before_work_starts(small_machine, tmp_path, kind):
    large = tmp_path / {"onnx": "m.onnx", "pt2": "m.pt2"}.get(kind, "model.safetensors")
    source = large
    if kind == "onnx with data beside it":
        source, large = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
        source.write_bytes(b"")
    if kind == "folder":
        source = tmp_path
        (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with large.open("wb") as file:
        file.truncate(2_000_000_000)  # a hole: it takes no room

    with pytest.raises(
        StepError, match=r"2\.0 GB of weights, takes about .* may use 0\.3 GB"
    ) as told:
        export(str(source), tmp_path / "package")
    assert "more memory" in told.value.hint
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize("source", ["", "model.onnx"])
def test_the_same_weights_in_other_formats_are_not_counted_again(monkeypatch, tmp_path, source):
    monkeypatch.setattr(hardware, "detect", lambda: SimpleNamespace(memory_bytes=1_500_000_000))
    names = ["model.safetensors", "model.onnx", "model.pt2"]
    (tmp_path / "onnx").mkdir()
    for name in [*names, *(f"onnx/model_O{level}.onnx" for level in range(1, 9))]:
        with (tmp_path / name).open("wb") as file:
            file.truncate(100_000_000)
    memory.require(tmp_path / source, torch=not source)  # 0.1 GB of weights: it has room


def test_the_external_weights_of_optimum_are_counted(small_machine, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with (tmp_path / "model.onnx_data").open("wb") as file:
        file.truncate(2_000_000_000)
    with pytest.raises(StepError, match=r"2\.0 GB of weights"):
        memory.require(tmp_path / "model.onnx", torch=False)
