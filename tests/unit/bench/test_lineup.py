import msgspec
import pytest

from mlserve_cli.bench.engine import bench, measure
from mlserve_cli.bench.lineup import lineup, why_not
from mlserve_cli.errors import EngineError
from tests.unit.bench.test_engine import HERE, US


def _steady(rows):
    return 100 * US


def test_every_combination_takes_part_under_a_name_that_says_what_differs(workshop):
    entries = lineup(
        [workshop("a", _steady), workshop("b", _steady)],
        engines=["onnxruntime", "openvino"],
        threads=[1, 2],
        cores=2,
    )
    assert [entry.label for entry in entries] == [
        f"{name}, {engine}, {threads}"
        for name in "ab"
        for engine in ("onnxruntime", "openvino")
        for threads in ("1 thread", "2 threads")
    ]
    assert {entry.setting.precision for entry in entries} == {"fp32"}


def test_what_nobody_asked_for_is_as_the_manifest_says(workshop):
    (entry,) = lineup([workshop("a", _steady, precision="bf16", engine="torch")], cores=4)
    assert (entry.label, entry.setting.engine) == ("a", "torch")
    assert (entry.setting.precision, entry.setting.threads) == ("bf16", 4)


def test_the_physical_cores_and_their_number_are_one_entry(workshop):
    assert len(lineup([workshop("a", _steady)], threads=[0, 2], cores=2)) == 1


def test_a_package_proven_in_bf16_is_loaded_in_bf16(workshop, clock):
    package = workshop("a", _steady, precision="bf16")
    bench([package], batch_sizes=(1,), seconds=0.001, clock=clock, hardware=HERE)
    assert workshop.engines["a"].options.precision == "bf16"


@pytest.mark.parametrize(
    ("engine", "precision", "isa", "reason"),
    [
        ("torch", "fp32", (), "torch runs files that end in .pt2, and this is model.onnx"),
        ("onnxruntime", "bf16", ("amx_bf16",), "onnxruntime computes in what the model's file"),
        ("openvino", "bf16", ("avx2",), "this CPU has no instructions for bf16"),
        ("openvino", "bf16", ("amx_bf16",), None),
        ("onnxruntime", "fp32", (), None),
    ],
)
def test_what_cannot_be_is_ruled_out_with_the_reason(workshop, engine, precision, isa, reason):
    (entry,) = lineup([workshop("a", _steady)], engines=[engine], precisions=[precision], cores=1)
    found = why_not(entry, msgspec.structs.replace(HERE, isa=isa))
    assert found is None if reason is None else found.startswith(reason)


def test_one_that_cannot_run_is_named_and_the_rest_goes_on(workshop, clock):
    def fails_at_eight(rows):
        if rows == 8:
            raise RuntimeError("out of memory")
        return 100 * US

    good, bad = workshop("good", _steady), workshop("bad", fails_at_eight)
    entries = lineup([good, bad], engines=["onnxruntime", "torch"], cores=2)
    report = measure(
        entries,
        batch_sizes=(1, 8),
        seconds=0.001,
        exclude=True,
        clock=clock,
        hardware=HERE,
    )
    assert [(each.label, each.batch) for each in report.excluded] == [
        ("good, torch", None),
        ("bad, torch", None),
        ("bad, onnxruntime", 8),
    ]
    assert "out of memory" in report.excluded[2].reason
    assert [(found.label, found.batch) for found in report.measurements] == [
        ("good, onnxruntime", 1),
        ("good, onnxruntime", 8),
        ("bad, onnxruntime", 1),
    ]


def test_where_nothing_can_run_every_reason_is_told(workshop, clock):
    entries = lineup([workshop("a", _steady)], engines=["torch"], threads=[1, 2], cores=2)
    with pytest.raises(EngineError, match=r"not one of 2 .*1 thread: torch runs files"):
        measure(entries, exclude=True, clock=clock, hardware=HERE)
