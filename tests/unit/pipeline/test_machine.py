from pathlib import Path

import pytest

from mlserve_cli.pipeline import machine
from mlserve_cli.pipeline.gemm import GemmSpeed
from mlserve_cli.runtime.hardware import Gpu, Hardware

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hardware():
    """Describe a machine with four cores and nothing special."""

    def make(**fields):
        values = {
            "cpu_name": "a CPU",
            "logical_cpus": 8,
            "physical_cores": 4,
            "cpu_quota": None,
            "memory_bytes": 8 << 30,
            "numa_nodes": 1,
            "isa": ("avx2",),
        }
        return Hardware(**(values | fields))

    return make


def test_every_extra_that_doctor_names_is_declared_with_the_same_libraries():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = set(project["optional-dependencies"])
    named = {extra.name for extra in machine.extras()}

    # dev and all are no feature of their own.
    assert named == declared - {"dev", "all"}


def test_looking_for_extras_imports_none_of_them():
    import subprocess
    import sys

    program = (
        "import sys; from mlserve_cli.pipeline import machine; machine.extras();"
        "print([m for m in ('torch','sklearn','onnx','onnxruntime','PIL') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )

    assert result.stdout.strip() == "[]", result.stderr


def test_a_missing_library_is_named_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(machine, "_installed", lambda module: module != "skl2onnx")

    missing = [extra for extra in machine.extras() if extra.missing]

    assert [(extra.name, extra.missing) for extra in missing] == [("sklearn", ("skl2onnx",))]
    assert missing[0].install == "pip install 'mlserve-cli[sklearn]'"


@pytest.mark.parametrize(("int8", "runs"), [(1549.0, True), (153.0, False), (33.0, False)])
def test_int8_is_recommended_only_where_it_was_measured_faster(int8, runs, hardware):
    speed = GemmSpeed(fp32_gflops=153.0, int8_gops=int8, rounds=9)
    found = {each.name: each for each in machine.precisions(hardware(), speed)}

    assert found["int8"].runs is runs
    assert f"{int8 / 153:.1f} times as fast" in found["int8"].detail


def test_bf16_needs_instructions_and_the_openvino_engine(monkeypatch, hardware):
    speed = GemmSpeed(fp32_gflops=100.0, int8_gops=500.0, rounds=9)

    def bf16(*isa, installed):
        monkeypatch.setattr(machine, "_installed", lambda module: installed)
        findings = machine.precisions(hardware(isa=isa), speed)
        return next(each for each in findings if each.name == "bf16")

    assert not bf16("avx2", installed=True).runs
    assert not bf16("amx_bf16", installed=False).runs
    assert "'openvino'" in bf16("amx_bf16", installed=False).detail
    assert bf16("amx_bf16", installed=True).runs


def test_a_cpu_without_vnni_is_warned_that_int8_sums_saturate(monkeypatch, hardware):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    speed = GemmSpeed(fp32_gflops=100.0, int8_gops=200.0, rounds=9)

    def detail(*isa):
        return next(
            each.detail
            for each in machine.precisions(hardware(isa=isa), speed)
            if each.name == "int8"
        )

    assert "saturate" in detail("avx2")
    assert "saturate" not in detail("avx2", "avx512_vnni")


def test_a_gpu_that_this_onnx_runtime_cannot_use_is_said_so(hardware):
    gpu = Gpu(index=0, name="a GPU", memory_bytes=80 << 30)
    found = {each.name: each for each in machine.engines(hardware(gpus=(gpu,)))}

    assert not found["onnxruntime on CUDA"].runs
    assert "onnxruntime-gpu" in found["onnxruntime on CUDA"].detail
    assert "onnxruntime on CUDA" not in {each.name for each in machine.engines(hardware())}
