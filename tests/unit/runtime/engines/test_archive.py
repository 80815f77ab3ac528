"""A .pt2 file is looked through before any of it is loaded."""

import json
import platform
import sys
import zipfile

import msgspec
import pytest

from mlserve_cli.runtime.engines import archive
from mlserve_cli.runtime.engines.archive import Compiled, Signature
from mlserve_cli.runtime.errors import EngineError
from mlserve_cli.runtime.tensors import TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("x", "FP32", ("batch", 4)),), outputs=(TensorSpec("y", "FP32", ("batch",)),)
)


@pytest.fixture
def packed(tmp_path):
    def pack(**members):
        path = tmp_path / "model.pt2"
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(f"model/{name}", content)
        return path

    return pack


def program(**more):
    return {"archive_format": "pt2", "models/model.json": "{}"} | more


def compiled(**facts):
    text = msgspec.json.encode(SIGNATURE).decode()
    facts = {"AOTI_DEVICE_KEY": "cpu", archive.SIGNATURE_KEY: text} | facts
    return {
        "archive_format": "pt2",
        "data/aotinductor/model/a.wrapper.so": "",
        "data/aotinductor/model/a.wrapper_metadata.json": json.dumps(facts),
    }


def test_what_is_no_archive_is_a_sentence(tmp_path, packed):
    (tmp_path / "text.pt2").write_text("no zip")
    for path in (tmp_path / "text.pt2", tmp_path / "absent.pt2", packed(version="1")):
        with pytest.raises(EngineError, match=r"is no whole .pt2 file"):
            archive.read(path)


def test_a_file_of_several_programs_is_refused(packed):
    members = program(**{"models/other.json": "{}"})
    with pytest.raises(EngineError, match="it holds 2 programs"):
        archive.read(packed(**members))


def test_weights_that_are_pickles_are_never_loaded(packed):
    entry = {"config": {"layer.weight": {"path_name": "weight_0", "use_pickle": True}}}
    members = program(**{"data/weights/model_weights_config.json": json.dumps(entry)})
    with pytest.raises(EngineError, match=r"'layer.weight' in .* is stored as a pickle"):
        archive.read(packed(**members))


def test_a_program_carries_its_signature(packed):
    extra = {f"extra/{archive.SIGNATURE_FILE}": msgspec.json.encode(SIGNATURE)}
    found = archive.read(packed(**program(**extra)))
    assert found.signature == SIGNATURE
    assert found.compiled is None


def test_a_damaged_signature_is_a_sentence(packed):
    with pytest.raises(EngineError, match=r"the signature in .* is damaged"):
        archive.read(packed(**program(**{f"extra/{archive.SIGNATURE_FILE}": "{"})))


def test_a_compiled_model_says_what_it_was_compiled_for(packed):
    path = packed(**compiled(AOTI_DEVICE_KEY="cuda", AOTI_COMPUTE_CAPABILITY="90"))
    found = archive.read(path).compiled
    assert (found.device, found.capability) == ("cuda", "90")
    assert found.read_signature(path) == SIGNATURE


def test_a_compiled_model_without_names_is_refused(packed):
    with pytest.raises(EngineError, match="does not say what its inputs and outputs are called"):
        archive.read(packed(**compiled(**{archive.SIGNATURE_KEY: ""})))


def here(**facts):
    known = {"system": sys.platform, "machine": platform.machine(), "isa": "AVX2"}
    return Compiled(**known | facts)


def test_what_was_compiled_for_this_machine_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "cpu_flags", lambda: frozenset({"avx2"}))
    archive.check_machine(tmp_path, here())


@pytest.mark.parametrize(
    "facts", [{"system": "plan9"}, {"machine": "z80"}, {"isa": "AVX512 AVX512_VNNI"}]
)
def test_what_was_compiled_elsewhere_is_refused_before_it_can_crash(tmp_path, monkeypatch, facts):
    monkeypatch.setattr(archive, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(EngineError, match=r"was compiled for .*, and this is"):
        archive.check_machine(tmp_path, here(**facts))


def test_the_cpu_does_not_matter_to_what_runs_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "cpu_flags", lambda: frozenset({"sse"}))
    archive.check_machine(tmp_path, here(isa="AVX512", device="cuda"))


@pytest.mark.parametrize(
    ("built", "found", "runs"),
    [
        ("90", (9, 0), True),
        ("80", (8, 6), True),
        ("86", (8, 0), False),
        ("80", (9, 0), False),
        ("", (9, 0), True),
    ],
)
def test_kernels_run_on_their_own_generation_of_gpus(tmp_path, built, found, runs):
    compiled = Compiled(capability=built)
    if runs:
        archive.check_gpu(tmp_path, compiled, found)
    else:
        with pytest.raises(EngineError, match="was compiled for compute capability"):
            archive.check_gpu(tmp_path, compiled, found)
