import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.step import run
from mlserve_cli.quantize import WeightOnlyStep

RANDOM = np.random.default_rng(2)
ROWS = RANDOM.normal(size=(32, 64)).astype(np.float32)


@pytest.fixture
def wide(make_onnx, pack):
    """Two Gemms, one with a transposed weight and a factor, and a MatMul: mostly weights."""
    held = {
        "w1": RANDOM.normal(size=(64, 128)).astype(np.float32) / 8,
        "b1": RANDOM.normal(size=128).astype(np.float32),
        "w2": RANDOM.normal(size=(128, 128)).astype(np.float32) / 11,
        "w3": RANDOM.normal(size=(16, 128)).astype(np.float32) / 11,
        "b3": RANDOM.normal(size=16).astype(np.float32),
    }
    nodes = [
        ("Gemm", ["x", "w1", "b1"], ["h"], "one", {}),
        ("Tanh", ["h"], ["t"], "tanh", {}),
        ("MatMul", ["t", "w2"], ["m"], "two", {}),
        ("Gemm", ["m", "w3", "b3"], ["y"], "three", {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ]
    return pack(make_onnx(nodes, held, shape=[64], out=[16]), {"x": ROWS})


def quantize(parent, tmp_path, **options):
    return run(WeightOnlyStep(**options), parent, tmp_path / "small", progress=Silent())


def answers(package):
    engine = package.engine()
    found = engine.run({"x": ROWS})["y"]
    engine.close()
    return found


def difference(parent, made):
    before, after = answers(parent), answers(made)
    return float(np.sqrt(np.mean((before - after) ** 2)) / before.std())


@pytest.mark.parametrize(
    ("options", "most", "share"),
    [
        ({"bits": 4}, 0.25, 0.25),
        ({"bits": 4, "algorithm": "hqq"}, 0.25, 0.25),
        ({"bits": 8}, 0.02, 0.4),
    ],
)
def test_every_product_gets_small_weights_and_answers_nearly_as_before(
    wide, tmp_path, options, most, share
):
    made = quantize(wide, tmp_path, **options)
    (facts,) = made.evidence("weights")
    assert facts["products"] == 3
    assert difference(wide, made) < most
    assert made.size_bytes < share * wide.size_bytes
    assert made.manifest.variant == f"int{options['bits']}-weights"
    assert made.manifest.batch.invariant


def test_eight_bits_are_closer_than_four(wide, tmp_path):
    four = run(WeightOnlyStep(bits=4), wide, tmp_path / "four", progress=Silent())
    eight = run(WeightOnlyStep(bits=8), wide, tmp_path / "eight", progress=Silent())
    assert difference(wide, eight) < difference(wide, four) / 4


def test_an_excluded_product_stays_in_float(wide, tmp_path):
    made = quantize(wide, tmp_path, exclude=["two"])
    (facts,) = made.evidence("weights")
    assert facts["products"] == 2
    assert made.manifest.lineage[-1].parameters["exclude"] == ["two"]


def test_the_same_model_gives_the_same_bytes(wide, tmp_path):
    one, two = (
        run(WeightOnlyStep(), wide, tmp_path / name, progress=Silent()) for name in ("one", "two")
    )
    assert one.model.read_bytes() == two.model.read_bytes()


def test_hqq_is_for_four_bits():
    with pytest.raises(StepError, match="hqq is for 4 bits"):
        WeightOnlyStep(bits=8, algorithm="hqq")


def test_a_model_of_convolutions_is_refused(make_onnx, pack):
    held = {"w": np.ones((2, 1, 3, 3), np.float32)}
    nodes = [("Conv", ["x", "w"], ["y"], "conv", {})]
    parent = pack(
        make_onnx(nodes, held, shape=[1, 5, 5], out=[2, 3, 3]),
        {"x": np.ones((4, 1, 5, 5), np.float32)},
    )
    with pytest.raises(StepError, match="nothing to quantize: no MatMul or Gemm, only Conv"):
        WeightOnlyStep().requires(parent)
