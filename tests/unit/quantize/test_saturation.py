# ruff: noqa: TID253
import numpy as np
import onnx
import pytest

from mlserve_cli.package.progress import Silent
from mlserve_cli.quantize import Choices, saturation, static, targets
from mlserve_cli.quantize.calibration.rows import gather
from mlserve_cli.quantize.prepare import prepare
from mlserve_cli.quantize.saturation import Saturation
from mlserve_cli.runtime.tensors import TensorSpec


@pytest.fixture
def analysed(tmp_path):
    """Quantize a model file with these rows and return what the analysis found."""

    def run(model, rows, **choices):
        spec = TensorSpec("x", "FP32", ("batch", *rows.shape[1:]))
        kept = gather([{"x": rows}], tmp_path / "rows", inputs=(spec,), progress=Silent())
        return static.quantize(onnx.load(prepare(model, tmp_path)), kept, Choices(**choices))

    return run


def test_large_weights_of_one_sign_saturate_and_seven_bits_never_do(make_onnx, analysed):
    """Every pair of neighbours is 127 twice, and every activation is the largest."""
    weights = {"w": np.full((8, 4), 0.5, np.float32)}
    model = make_onnx([("MatMul", ["x", "w"], ["y"], "p", {})], weights, shape=[8], out=[4])
    rows = np.ones((32, 8), np.float32)
    assert analysed(model, rows).saturation == (Saturation("p", 1.0, 1.0),)
    assert analysed(model, rows, reduce_range=True).saturation == (Saturation("p", 0.0, 0.0),)


def test_what_weights_allow_real_rows_may_not_reach(make_onnx, analysed):
    weights = {"w": np.full((8, 4), 0.5, np.float32)}
    model = make_onnx([("MatMul", ["x", "w"], ["y"], "p", {})], weights, shape=[8], out=[4])
    rows = np.full((32, 8), 0.1, np.float32)
    rows[-1, 0] = 1.0  # makes the range; the rows that are looked at stay far below it
    assert analysed(model, rows).saturation == (Saturation("p", 1.0, 0.0),)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_convolution_pairs_its_channels_innermost(make_onnx, analysed, dimensions):
    """Channels 0 and 1 have weights of other signs at each position, so no pair can saturate;
    positions of one channel have the same sign, and would if they were neighbours."""
    kernel = np.ones((2, 2, *[2] * dimensions), np.float32)
    kernel[:, 1] *= -1
    size = [4] * dimensions
    nodes = [("Conv", ["x", "w"], ["y"], "c", {})]
    model = make_onnx(nodes, {"w": kernel}, shape=[2, *size], out=[2, *[3] * dimensions])
    rows = np.random.default_rng(0).random((16, 2, *size)).astype(np.float32)
    assert analysed(model, rows).saturation == (Saturation("c", 0.0, 0.0),)
    assert (
        analysed(
            make_onnx(nodes, {"w": np.abs(kernel)}, shape=[2, *size], out=[2, *[3] * dimensions]),
            rows,
        )
        .saturation[0]
        .possible
        == 1.0
    )


def test_a_depthwise_convolution_has_a_kernel_that_adds_in_32_bits(make_onnx, analysed):
    weights = {"w": np.ones((4, 1, 3, 3), np.float32)}
    nodes = [("Conv", ["x", "w"], ["y"], "c", {"group": 4})]
    model = make_onnx(nodes, weights, shape=[4, 5, 5], out=[4, 3, 3])
    assert analysed(model, np.ones((16, 4, 5, 5), np.float32)).saturation == ()


def test_the_share_is_what_the_emulation_changes():
    """One pair a sum: the share of pairs that saturate is that of the sums that come out other."""
    random = np.random.default_rng(3)
    matrix = random.integers(-127, 128, (2, 500)).astype(np.int8)
    levels = random.integers(0, 256, (40, 2)).astype(np.uint8)
    exact = levels.astype(np.int32) @ matrix.astype(np.int32)
    changed = np.mean(saturation.emulate(levels, matrix) != exact)
    assert changed > 0.01
    assert saturation.share(levels, matrix) == changed


@pytest.mark.parametrize(
    ("isa", "found", "expected"),
    [
        (("avx2", "avx512_vnni"), [Saturation("p", 0.1, 0.0)], ("avx512_vnni|avx_vnni",)),
        (("avx2", "avx_vnni"), [Saturation("p", 0.1, 0.0)], ("avx512_vnni|avx_vnni",)),
        (("avx2", "avx512_vnni"), [Saturation("p", 0.0, 0.0)], ("avx2",)),
        (("avx2",), [Saturation("p", 0.1, 0.1)], ("avx2",)),
    ],
)
def test_a_package_says_on_which_cpus_its_answers_hold(monkeypatch, isa, found, expected):
    monkeypatch.setattr(targets, "_isa", lambda: isa)
    monkeypatch.setattr(targets, "_is_x86", lambda: True)
    assert targets.proven(Choices(), found) == expected


@pytest.mark.parametrize(
    ("machine", "isa", "target", "form", "reduces"),
    [
        ("x86_64", ("avx2", "avx512_vnni"), "this", "u8s8", False),
        ("x86_64", ("avx2", "avx_vnni"), "this", "u8s8", False),
        ("x86_64", ("avx2", "avx512f"), "this", "u8s8", True),
        ("x86_64", ("avx2", "avx512_vnni"), "avx2", "u8s8", True),
        ("x86_64", ("avx2",), "vnni", "u8s8", False),
        ("x86_64", ("avx2", "avx512_vnni"), "arm", "s8s8", False),
        ("aarch64", ("neon_dotprod",), "this", "s8s8", False),
    ],
)
def test_the_form_and_the_bits_follow_the_cpu(monkeypatch, machine, isa, target, form, reduces):
    monkeypatch.setattr(targets, "_isa", lambda: isa)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert targets.form(target) == form
    assert targets.reduces("auto", target) is reduces
    assert targets.reduces("on", target)
    assert not targets.reduces("off", target)
