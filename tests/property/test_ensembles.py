"""The laws of ensembles: a pipeline is the composition of its steps, and rows do not mix in it."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.engines.ensemble import EnsembleEngine
from mlserve_cli.runtime.ensemble.declaration import Ensemble, OperationStep, PackageStep
from mlserve_cli.runtime.manifest import BatchProof
from mlserve_cli.runtime.tensors import TensorSpec

_numbers = itertools.count()

# Small whole numbers, so that float64 is exact and equality means equality.
whole = st.integers(-8, 8)
members = st.lists(
    st.tuples(whole, whole, st.sampled_from(["free", "one", 3])), min_size=1, max_size=4
)
batches = st.lists(st.tuples(whole, whole), min_size=1, max_size=9)


def _pipeline(affine, folder, chain):
    """in → member → … → out; the vote is the mean of the first and the last."""
    steps = []
    for number, (scale, shift, kind) in enumerate(chain):
        affine(
            folder / "members" / f"m{number}",
            scale,
            shift,
            batch=3 if kind == 3 else "batch",
            proof=BatchProof(invariant=kind != "one", reason="of the test's choice"),
        )
        takes = f"t{number}" if number else "in"
        steps.append(
            PackageStep(
                name=f"m{number}",
                member=f"m{number}",
                inputs={"x": takes},
                outputs={"y": f"t{number + 1}"},
            )
        )
    ends = ("t1", f"t{len(chain)}")
    steps.append(OperationStep(name="vote", operation="mean", inputs=ends, output="vote"))
    spec = TensorSpec("in", "FP64", ("batch", 2))
    outputs = tuple(TensorSpec(name, "FP64", ("batch", 2)) for name in (ends[1], "vote"))
    declared = Ensemble(inputs=(spec,), outputs=outputs, steps=tuple(steps))
    return EnsembleEngine(folder / "ensemble.json", EngineOptions(), declared=declared), ends[1]


@settings(max_examples=30, deadline=None)
@given(chain=members, batch=batches)
def test_a_pipeline_of_affine_members_is_their_composition(chain, batch, affine, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / f"composed-{next(_numbers)}"
    engine, last = _pipeline(affine, folder, chain)
    x = np.array(batch, dtype=np.float64)

    found = engine.run({"in": x})

    expected = [x]
    for scale, shift, _ in chain:
        expected.append(expected[-1] * scale + shift)
    assert np.array_equal(found[last], expected[-1])
    assert np.array_equal(found["vote"], (expected[1] + expected[-1]) / 2)


@settings(max_examples=30, deadline=None)
@given(chain=members, batch=batches, data=st.data())
def test_any_split_of_a_batch_gives_the_same_rows(chain, batch, data, affine, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / f"split-{next(_numbers)}"
    engine, last = _pipeline(affine, folder, chain)
    x = np.array(batch, dtype=np.float64)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(x) - 1), max_size=3)) if len(x) > 1 else ())

    whole_batch = engine.run({"in": x})
    parts = [engine.run({"in": part}) for part in np.split(x, cuts)]

    for name in (last, "vote"):
        assert np.array_equal(whole_batch[name], np.concatenate([part[name] for part in parts]))
