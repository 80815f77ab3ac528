"""Truth joined to predictions: at most once a row, nothing lost in the counts, bounded memory."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.runtime.feedback.memory import UNKNOWN, Memory
from mlserve_cli.runtime.feedback.prediction import unpack
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.tensors import TensorSpec

ROWS = 6
LABELS = ("a", "b", "c")

names = st.sampled_from("pqrstuvw")
predictions = st.tuples(
    st.just("predict"),
    names,
    st.one_of(st.just(""), names),
    st.lists(st.integers(0, 2), min_size=1, max_size=ROWS),
)
truths = st.tuples(
    st.just("truth"),
    names,
    st.integers(0, 4),
    st.one_of(st.sampled_from("abcx"), st.integers(0, 3)),
)
copies = st.tuples(st.just("shadow"), names)


def version(number):
    return Manifest(
        name="m",
        version=number,
        variant="fp32",
        inputs=(),
        outputs=(TensorSpec("y", "FP32", ("batch", 3)),),
        labels=LABELS,
    )


def serial_of(memory, name):
    """The serial number of what a truth with that id would be joined to."""
    recent = memory._models.get("m")
    found = None if recent is None else recent.find(name)
    return None if found is None else recent.entries[found][0]


def number_of(truth):
    return LABELS.index(truth) if isinstance(truth, str) else truth


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(predictions, truths, copies), max_size=60))
def test_each_truth_joins_at_most_once_a_row_and_the_counts_add_up(steps):
    """Against a model that keeps everything for ever and counts by hand what holds at the end."""
    memory = Memory(ROWS, lambda *_: "default")
    stable, shadow = version("1"), version("2")
    kept = {}  # name → (prediction, decided, {row: truth}); of the newest under that request id
    every = []
    results = Counter()
    sent = 0
    for step in steps:
        match step:
            case ("predict", name, alias, decided):
                asked = SimpleNamespace(request_id=name, alias=alias, named=False)
                outputs = {"y": np.eye(3, dtype=np.float32)[decided]}
                found = memory.remember(asked, stable, outputs, len(decided))
                entry = (found, decided, {}, [])
                every.append(entry)
                kept[name] = entry
            case ("shadow", name):
                entry = kept.get(name)
                if entry is not None:
                    wrong = [(each + 1) % 3 for each in entry[1]]
                    entry[0].also(shadow, {"y": np.eye(3, dtype=np.float32)[wrong]})
                    if serial_of(memory, name) == entry[0].serial:  # else it was forgotten
                        entry[3].append(wrong)
            case ("truth", name, row, truth):
                sent += 1
                found = serial_of(memory, name)
                result = memory.join("m", name, row, truth)
                results[result] += 1
                entry = next((each for each in every if each[0].serial == found), None)
                if result in ("joined", "corrected", "duplicate"):
                    assert entry is not None
                    assert (row in entry[2]) == (result != "joined")
                    entry[2][row] = truth
                else:
                    assert result in UNKNOWN

        recent = memory._models.get("m")
        if recent is not None:
            present = recent.entries.values()
            assert recent.rows == sum(unpack(each).rows for each in present) <= ROWS
            assert recent.bytes == sum(unpack(each).size for each in present)
            assert all(unpack(each).packed() == each for each in present)
            assert recent.entries.keys() >= set(recent.aliases.values())
            assert len(recent.gone) <= ROWS

    assert sum(results.values()) == sent == sum(memory.tallies.results.values())
    expected = {"1": Counter(), "2": Counter()}
    for _, decided, known, shadows in every:
        for row, truth in known.items():
            expected["1"][decided[row] == number_of(truth)] += 1
            for wrong in shadows:
                expected["2"][wrong[row] == number_of(truth)] += 1
    for each, arm in (("1", "default"), ("2", "shadow")):
        tally = memory.tallies.of.get(("m", each, arm))
        net = (0, 0) if tally is None else (tally.net.agreed, tally.net.differed)
        assert net == (expected[each][True], expected[each][False])
