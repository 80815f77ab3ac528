import threading

import numpy as np
import pytest

from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.errors import EngineError, InvalidRequest, PackageError
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.tensors import TensorSpec


def rows(*firsts):
    return {"in": np.array([[first, 0.5] for first in firsts], dtype=np.float64)}


@pytest.fixture
def two(affine, tmp_path):
    """Two members: one doubles, one adds one."""
    affine(tmp_path / "members" / "double", 2, 0)
    affine(tmp_path / "members" / "more", 1, 1)


def test_steps_run_one_after_another(two, opened, runs):
    engine = opened(runs("double", "in", "twice"), runs("more", "twice", "out"))

    assert engine.run(rows(1, 2))["out"].tolist() == [[3, 2], [5, 2]]


def test_only_the_outputs_that_were_asked_for_are_answered(two, opened, runs):
    engine = opened(runs("double", "in", "twice"), runs("more", "twice", "out"))

    assert list(engine.run(rows(1))) == ["out"]


def test_the_callers_inputs_are_left_alone(two, opened, runs):
    given = rows(1)
    opened(runs("double", "in", "out")).run(given)

    assert list(given) == ["in"]
    assert given["in"].tolist() == [[1, 0.5]]


def test_a_member_that_two_steps_run_is_in_memory_once(two, opened, runs, affine):
    before = len(affine.made)
    engine = opened(runs("double", "in", "twice"), runs("again", "twice", "out", member="double"))

    assert engine.run(rows(1))["out"].tolist() == [[4, 2]]
    assert len(affine.made) == before + 1


def test_members_get_the_threads_of_the_sizing_and_are_closed_with_the_ensemble(
    two, opened, runs, affine
):
    engine = opened(
        runs("double", "in", "twice"),
        runs("more", "twice", "out"),
        options=EngineOptions(threads=3),
    )
    engine.close()

    assert [each.options.threads for each in affine.made[-2:]] == [3, 3]
    assert all(each.closed for each in affine.made[-2:])


def test_a_member_that_cannot_be_loaded_leaves_none_open(two, opened, runs, affine):
    with pytest.raises(PackageError, match="missing"):
        opened(runs("double", "in", "twice"), runs("missing", "twice", "out"))

    assert affine.made[-1].closed


def test_a_member_of_one_row_at_a_time_is_fed_row_by_row(affine, opened, runs, tmp_path):
    affine(tmp_path / "members" / "lone", 2, 1, proof=BatchProof(invariant=False, reason="int8"))
    engine = opened(runs("lone", "in", "out"))

    assert engine.run(rows(1, 2, 3))["out"][:, 0].tolist() == [3, 5, 7]
    assert affine.made[-1].sizes == [1, 1, 1]


def test_a_member_with_a_fixed_batch_is_fed_by_pieces_and_the_last_is_filled_up(
    affine, opened, runs, tmp_path
):
    affine(tmp_path / "members" / "fours", 2, 1, batch=4)
    engine = opened(runs("fours", "in", "out"))

    found = engine.run(rows(*range(9)))["out"]

    assert found[:, 0].tolist() == [2 * number + 1 for number in range(9)]
    assert affine.made[-1].sizes == [4, 4, 4]


def test_functions_and_operations_stand_between_members(two, opened, runs, calls, does):
    engine = opened(
        runs("double", "in", "twice"),
        calls("swap", ["twice"], ["swapped"]),
        does("mean", ["twice", "swapped"], "out"),
        code="def swap(twice):\n    return {'swapped': twice[:, ::-1], 'unused': twice}\n",
    )

    assert engine.run(rows(1))["out"].tolist() == [[1.5, 1.5]]


CROPS = """
import numpy as np

def crop(found):
    counts = found[:, 0].astype(int)
    owner = np.repeat(np.arange(len(found)), counts)
    return {"crops": found[owner], "owner": owner}

def gather(found, marked, owner):
    total = np.zeros_like(found)
    np.add.at(total, owner, marked)
    return {"out": total}
"""


def detector(runs, calls):
    return (
        runs("double", "in", "found"),
        calls("crop", ["found"], ["crops", "owner"]),
        runs("more", "crops", "marked"),
        calls("gather", ["found", "marked", "owner"], ["out"]),
    )


def test_a_function_may_change_the_number_of_rows_in_between(two, opened, runs, calls, affine):
    engine = opened(*detector(runs, calls), code=CROPS)

    found = engine.run(rows(1, 0, 2))["out"]

    # Row 0 has 2 crops, row 1 none, row 2 four; each adds what it was marked with.
    assert found.tolist() == [[6, 4], [0, 0], [20, 8]]
    assert affine.made[-1].sizes == [6]


def test_a_detector_that_finds_nothing_asks_the_next_member_for_nothing(
    two, opened, runs, calls, affine
):
    engine = opened(*detector(runs, calls), code=CROPS)

    assert engine.run(rows(0, 0))["out"].tolist() == [[0, 0], [0, 0]]
    assert affine.made[-1].sizes == []


def test_outputs_with_other_rows_than_the_batch_name_the_step(two, opened, runs, calls):
    engine = opened(
        runs("double", "in", "twice"),
        calls("first", ["twice"], ["out"]),
        code="def first(twice):\n    return {'out': twice[:1]}\n",
    )

    with pytest.raises(EngineError, match="'out' of step 'first' has 1 rows for a batch of 2"):
        engine.run(rows(1, 2))


def test_what_a_function_makes_must_fit_the_member_that_takes_it(two, opened, runs, calls):
    engine = opened(
        calls("half", ["in"], ["small"]),
        runs("double", "small", "out"),
        code="def half(**t):\n    return {'small': t['in'].astype('float32')}\n",
    )

    with pytest.raises(EngineError, match=r"step 'double' .*'x' data-type is 'FP32'"):
        engine.run(rows(1))


def test_an_output_of_another_datatype_than_before_names_the_step(two, opened, calls):
    engine = opened(
        calls("whole", ["in"], ["out"]),
        code="def whole(**t):\n    return {'out': t['in'].astype(int)}\n",
    )

    with pytest.raises(EngineError, match=r"'out' of step 'whole' is INT64 .* and was FP64"):
        engine.run(rows(1))


def test_an_error_names_the_step_and_the_member(two, opened, runs):
    engine = opened(runs("more", "in", "more"), runs("double", "more", "out"))

    with pytest.raises(EngineError, match=r"step 'double' \(double 1\) failed: thirteen and"):
        engine.run(rows(12.5))


def test_the_clients_mistake_stays_the_clients(two, opened, runs):
    engine = opened(runs("double", "in", "out"))

    with pytest.raises(InvalidRequest, match=r"step 'double'.*99.5 stands in no row") as caught:
        engine.run(rows(99.5))
    assert caught.value.hint == "0 to 98 do"


def test_a_value_error_of_a_function_is_the_clients_and_others_are_ours(two, opened, calls):
    engine = opened(
        calls("check", ["in"], ["out"]),
        code="def check(**t):\n"
        "    if t['in'][0, 0] < 0:\n        raise ValueError('below zero')\n"
        "    raise KeyError('boxes')\n",
    )

    with pytest.raises(InvalidRequest, match=r"step 'check' \(steps.py:check\): .*below zero"):
        engine.run(rows(-1))
    with pytest.raises(EngineError, match=r"step 'check' .* failed: 'boxes'"):
        engine.run(rows(1))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1]", "returned list, not a dict"),
        ("return {'other': 1}", "returned other, and no 'out'"),
        ("return {'out': 1j}", "dtype complex128"),
        ("t['in'][0] = 0", "read-only"),
    ],
)
def test_what_a_function_does_wrong_is_a_sentence(two, opened, calls, body, said):
    engine = opened(calls("wrong", ["in"], ["out"]), code=f"def wrong(**t):\n    {body}\n")

    with pytest.raises((EngineError, InvalidRequest), match=said):
        engine.run(rows(1))


def test_text_that_a_function_makes_becomes_bytes(two, opened, calls):
    engine = opened(
        calls("say", ["in"], ["out"]),
        outputs=(TensorSpec("out", "BYTES", ("batch",)),),
        code="def say(**t):\n    return {'out': ['é'] * len(t['in'])}\n",
    )

    assert engine.run(rows(1))["out"].tolist() == ["é".encode()]


def test_answers_share_no_memory_with_the_batch(two, opened, calls):
    engine = opened(
        calls("same", ["in"], ["out"]), code="def same(**t):\n    return {'out': t['in']}\n"
    )
    given = rows(1)
    found = engine.run(given)["out"]
    given["in"][:] = 7

    assert found.tolist() == [[1, 0.5]]
    assert found.flags.writeable


def test_the_time_of_each_step_is_reported_to_who_asks(two, opened, runs):
    engine = opened(runs("double", "in", "twice"), runs("more", "twice", "out"))
    engine.run(rows(1))  # nobody asks yet
    told = []
    engine.report = told.append

    engine.run(rows(1))

    (times,) = told
    assert times.names == ("double", "more")
    assert all(0 < seconds < 60 for seconds in times.seconds)


def test_several_threads_may_run_at_once(two, opened, runs, does):
    engine = opened(
        runs("double", "in", "twice"),
        runs("more", "in", "more"),
        does("mean", ["twice", "more"], "out"),
    )
    found = {}

    def work(number):
        for _ in range(50):
            found[number] = engine.run(rows(number))["out"][0, 0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == {number: (2 * number + number + 1) / 2 for number in range(4)}


def test_an_ensemble_is_a_member_like_any_other(affine, opened, runs, two, tmp_path):
    """Its folder is a package whose engine is this one."""
    from mlserve_cli.runtime.ensemble.declaration import Ensemble
    from mlserve_cli.runtime.manifest import Manifest

    inner = tmp_path / "members" / "inner"
    affine(inner / "serve" / "members" / "double", 2, 0)
    step = runs("double", "x", "y")
    spec = [TensorSpec(name, "FP64", ("batch", 2)) for name in ("x", "y")]
    declared = Ensemble(inputs=(spec[0],), outputs=(spec[1],), steps=(step,))
    (inner / "serve" / "ensemble.json").write_bytes(declared.to_json())
    manifest = Manifest(
        name="inner",
        version="1",
        variant="ensemble",
        engine="ensemble",
        model="ensemble.json",
        inputs=(spec[0],),
        outputs=(spec[1],),
        batch=BatchProof(invariant=True),
    )
    (inner / "manifest.json").write_bytes(manifest.sealed().to_json())

    engine = opened(runs("inner", "in", "twice"), runs("more", "twice", "out"))

    assert engine.run(rows(1))["out"].tolist() == [[3, 2]]
    with pytest.raises(EngineError, match=r"step 'inner' .* failed: step 'double' .* thirteen"):
        engine.run(rows(13.5))
