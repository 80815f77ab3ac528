"""verify runs every check again, and the first that fails says why."""

import msgspec
import numpy as np

from mlserve_cli.package import golden
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime.golden import Golden, read


def reseal(package, **fields):
    """Write the manifest again with other claims, as a maker who lies would."""
    from mlserve_cli.package.draft import Draft

    draft = object.__new__(Draft)
    draft.path, draft.serve, draft.source = package.path, package.serve, package.source
    draft.seal(msgspec.structs.replace(package.manifest, **fields))


def test_a_whole_package_passes_every_check(iris_package):
    checks = list(verify(iris_package().path))

    assert [check.name for check in checks] == [
        "files",
        "signature",
        "golden predictions",
        "batch-invariance",
    ]
    assert all(check.passed for check in checks)


def test_a_folder_that_is_no_package_fails_with_the_way_to_make_one(tmp_path):
    (check,) = verify(tmp_path)

    assert not check.passed
    assert "mlserve export" in check.detail


def test_another_signature_than_the_models_is_found(iris_package):
    package = iris_package()
    spec = msgspec.structs.replace(package.manifest.inputs[0], shape=("batch", 5))
    reseal(package, inputs=(spec,))

    *_, check = verify(package.path)

    assert (check.name, check.passed) == ("signature", False)


def test_answers_that_are_not_the_golden_ones_are_found_with_the_difference(iris_package):
    package = iris_package()
    proof = read(package.serve)
    wrong = {name: array + np.float32(0.5) for name, array in proof.outputs.items()}
    golden.write(package.serve, Golden(proof.inputs, wrong))
    reseal(package)

    failed = [check for check in verify(package.path) if not check.passed]

    assert [check.name for check in failed] == ["golden predictions"]
    assert "largest relative difference" in failed[0].detail


def test_golden_rows_that_the_model_cannot_take_are_a_sentence(iris_package):
    package = iris_package()
    proof = read(package.serve)
    golden.write(package.serve, Golden({"x": proof.inputs["x"][:, :2]}, proof.outputs))
    reseal(package)

    *_, check = verify(package.path)

    assert not check.passed
    assert "the model fails" in check.detail
