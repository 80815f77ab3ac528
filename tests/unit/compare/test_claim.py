"""What the evidence claims holds on this machine, or verify says by how much it does not."""

import json

import numpy as np
import pytest

from mlserve_cli.evaluate.report import measure
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import claim
from mlserve_cli.pipeline.cases import Cases
from mlserve_cli.pipeline.claim import Claim
from mlserve_cli.pipeline.variant import Gate, make


def verify(package, data, **options):
    values = {"target": None, "reference": None} | options
    return claim.verify(package.path, data=data, progress=Silent(), **values)


def evaluate(package, data):
    return measure(package.path, data=data, target=None, reference=None, progress=Silent())


def rewrite(package, kind, **changes):
    """Evidence as it was measured on a machine that answers otherwise."""
    (path,) = (package.path / "evidence").glob(f"{kind}-*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_same_rows_on_the_same_machine_keep_the_claim(first, flowers):
    evaluate(first, flowers)

    check = verify(first, flowers)

    assert check.passed
    assert "on the same 150 rows" in check.detail
    assert "holds on this machine" in check.detail


def test_a_package_that_is_worse_here_than_where_it_was_proven_fails(second, flowers):
    evaluate(second, flowers)
    rewrite(second, "accuracy", value=97.0)  # what the exchanged weights would be without it

    check = verify(second, flowers)

    assert not check.passed
    assert "claims 97.00 points" in check.detail
    assert "does not hold on this machine" in check.detail


def test_a_gate_is_held_to_the_parent_and_the_drop_that_it_allowed(first, flowers, timed):
    package = _gated(first, flowers, max_drop=2.0)

    found = Claim.of(package)
    assert (found.max_drop, found.before) == (2.0, found.value)
    assert found.fingerprint
    assert verify(package, flowers).passed

    # The parent was three points better than this package is here.
    rewrite(package, "gate", before=found.before + 3.0)
    check = verify(package, flowers)
    assert not check.passed
    assert "a loss of at most 2.00 points against its parent's" in check.detail


def test_a_refused_gate_claims_nothing_but_the_accuracy_itself(first, flowers, timed):
    package = _gated(first, flowers, max_drop=2.0)
    rewrite(package, "gate", refusals=["it loses 9 points"])

    assert Claim.of(package).before is None


def test_fewer_rows_fail_only_where_their_whole_interval_is_worse(first, iris, flowers, tmp_path):
    evaluate(first, flowers)
    few = tmp_path / "few.npz"
    # Two of twenty are wrong: 90 points, and an interval that reaches up to the claim's 97.
    np.savez(few, x=iris[0][:20], target=np.array([0] * 18 + [1, 1]))

    check = verify(first, str(few))

    assert check.passed
    assert "on 150 other rows" in check.detail
    np.savez(few, x=iris[0], target=(iris[1] + 1) % 3)
    assert not verify(first, str(few)).passed


def test_without_a_claim_there_is_nothing_to_hold_it_to(first, flowers):
    check = verify(first, flowers)

    assert not check.passed
    assert "mlserve evaluate" in check.detail


def test_evidence_of_another_package_claims_nothing(first, flowers):
    evaluate(first, flowers)
    rewrite(first, "accuracy", digest="sha256:another")

    assert Claim.of(first) is None


def test_another_metric_than_the_claimed_one_is_named(first, second, flowers, unlabelled):
    evaluate(second, flowers)

    check = verify(second, unlabelled, reference=first.path)

    assert not check.passed
    assert "claims 'accuracy', and 'agreement' was measured" in check.detail


def test_verifying_writes_nothing(first, flowers):
    evaluate(first, flowers)
    before = sorted((first.path / "evidence").iterdir())

    verify(first, flowers)

    assert sorted((first.path / "evidence").iterdir()) == before


@pytest.mark.parametrize("drop", [0.0, 1.0])
def test_a_drop_that_is_just_allowed_holds(first, flowers, drop):
    evaluate(first, flowers)
    value = Claim.of(first).value
    rewrite(first, "accuracy", value=value + drop)

    assert verify(first, flowers).passed


def _gated(parent, data, *, max_drop):
    import shutil

    from mlserve_cli.package.step import Change

    class Copy:
        name = "copy"

        def requires(self, parent):
            pass

        def apply(self, parent, draft, progress):
            shutil.copyfile(parent.model, draft.serve / "model.onnx")
            return Change(variant="copy")

        def ensures(self, parent, draft, manifest):
            pass

    return make(
        lambda rows: Copy(),
        parent,
        parent.path.with_name("copy"),
        cases=Cases(data=data),
        gate=Gate(max_drop=max_drop),
        progress=Silent(),
    ).package
