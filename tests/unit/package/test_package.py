"""A package is whole or refused, and the same recipe gives the same digest."""

import errno
import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from mlserve_cli.errors import PackageError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.runtime import manifest as manifests
from mlserve_cli.runtime.manifest import SCHEMA


def rewrite(package, change):
    """Change the manifest by hand, as an editor would: the digest is left as it was."""
    path = package.path / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_package_opens_as_it_was_made(iris_package):
    made = iris_package()

    opened = Package.open(made.path)

    assert opened.manifest == made.manifest
    assert opened.manifest.batch.invariant
    assert [spec.shape for spec in opened.manifest.inputs] == [("batch", 4)]


def test_the_same_recipe_on_the_same_data_gives_the_same_digest(iris_package, tmp_path):
    first = iris_package(tmp_path / "first")
    second = iris_package(tmp_path / "second")

    assert first.manifest.digest == second.manifest.digest


def test_another_name_gives_another_digest(iris_package, tmp_path):
    first = iris_package(tmp_path / "first")
    second = iris_package(tmp_path / "second", name="flowers")

    assert first.manifest.digest != second.manifest.digest


def test_a_package_that_was_made_before_a_field_existed_still_opens(iris_package):
    package = iris_package()

    def as_before(document):
        del document["finite_inputs"], document["batch"]["reason"], document["digest"]
        del document["padding"], document["precision"]
        canonical = msgspec.json.encode(document, order="sorted")
        document["digest"] = "sha256:" + hashlib.sha256(canonical).hexdigest()

    rewrite(package, as_before)

    opened = Package.open(package.path)
    assert opened.manifest.digest != package.manifest.digest
    assert opened.manifest.batch == package.manifest.batch


def test_a_field_that_is_added_by_hand_is_a_change(iris_package):
    package = iris_package()
    rewrite(package, lambda document: document.update(note="mine"))

    with pytest.raises(PackageError, match="was changed after the package was made"):
        Package.open(package.path)


def test_evidence_is_added_and_never_changes_the_digest(iris_package):
    package = iris_package()

    package.add_evidence("accuracy", {"value": 97.0})
    package.add_evidence("accuracy", {"value": 96.0})

    assert {record["value"] for record in package.evidence("accuracy")} == {96.0, 97.0}
    assert Package.open(package.path).manifest.digest == package.manifest.digest


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "statistics.json"])
def test_a_file_that_was_changed_is_named(iris_package, name):
    package = iris_package()
    path = package.serve / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(PackageError, match=rf"{name}' is not the file that was packaged"):
        Package.open(package.path)


def test_a_truncated_file_is_named_with_both_sizes(iris_package):
    package = iris_package()
    size = package.model.stat().st_size
    package.model.write_bytes(package.model.read_bytes()[:-10])

    with pytest.raises(PackageError, match=f"has {size - 10} bytes where the manifest says {size}"):
        Package.open(package.path)


def test_a_missing_file_is_named(iris_package):
    package = iris_package()
    package.model.unlink()

    with pytest.raises(PackageError, match=r"model\.onnx' is missing from the package"):
        Package.open(package.path)


def test_a_manifest_that_was_edited_is_refused(iris_package):
    package = iris_package()
    rewrite(package, lambda document: document.update(labels=["a", "b", "c"]))

    with pytest.raises(PackageError, match="was changed after the package was made"):
        Package.open(package.path)


def test_a_newer_schema_is_refused_before_anything_else_is_read(iris_package):
    package = iris_package()
    rewrite(package, lambda document: document.update(schema=SCHEMA + 1, files="something new"))

    with pytest.raises(PackageError, match=f"schema {SCHEMA + 1}") as refused:
        Package.open(package.path)

    assert "upgrade mlserve" in refused.value.hint


@pytest.mark.parametrize("schema", [None, "1", True, 0, 1.5])
def test_a_schema_that_is_no_number_is_refused(iris_package, schema):
    package = iris_package()
    rewrite(package, lambda document: document.update(schema=schema))

    with pytest.raises(PackageError, match="is damaged"):
        Package.open(package.path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 1}',
        "\x00\xff",
        '{"schema": 1, "name": "\xff"}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_no_manifest_is_damaged(iris_package, text):
    package = iris_package()
    (package.path / "manifest.json").write_bytes(text.encode("latin-1"))

    with pytest.raises(PackageError, match="is damaged"):
        Package.open(package.path)


@pytest.mark.parametrize("model", ["../../etc/passwd", "/etc/passwd", "a//b", "a\\b", "."])
def test_a_manifest_cannot_lead_out_of_its_package(iris_package, model):
    package = iris_package()

    def leave(document):
        import msgspec

        from mlserve_cli.runtime.manifest import Manifest

        document["model"] = model
        sealed = msgspec.convert(document, Manifest).sealed()
        document["digest"] = sealed.digest

    rewrite(package, leave)

    with pytest.raises(PackageError, match="would leave the package"):
        Package.open(package.path)


def test_a_package_that_is_not_there_may_be_one_beside_it(iris_package):
    package = iris_package()
    path = package.path
    with pytest.raises(PackageError, match="does not exist") as refused:
        Package.open(path.with_name(path.name[:-1]))
    assert str(path) in refused.value.hint

    with pytest.raises(PackageError, match="does not exist") as refused:
        Package.open(path.with_name("qqqqqq"))
    assert "mlserve export" in refused.value.hint


def test_a_folder_without_a_manifest_is_no_package(tmp_path):
    with pytest.raises(PackageError, match="is not a package") as refused:
        Package.open(tmp_path)

    assert "mlserve export" in refused.value.hint


def test_a_measurement_that_cannot_be_kept_is_said_and_leaves_nothing(iris_package, monkeypatch):
    package = iris_package()
    before = sorted((package.path / "evidence").glob("*"))
    said = []

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Progress(Silent):
        def say(self, text):
            said.append(text)

    monkeypatch.setattr(Path, "replace", full)
    package.keep_evidence("bench", {"p50_ms": 1.0}, Progress())

    assert len(said) == 1
    assert "not kept" in said[0]
    assert "No space left" in said[0]
    assert sorted((package.path / "evidence").glob("*")) == before


@pytest.mark.parametrize("text", ["not json", "[]"])
def test_evidence_that_was_spoiled_is_named(iris_package, text):
    package = iris_package()
    (package.path / "evidence").mkdir(exist_ok=True)
    (package.path / "evidence" / "gate-00000000.json").write_text(text)

    with pytest.raises(PackageError, match=r"gate-00000000\.json"):
        package.evidence("gate")


def test_a_served_file_that_is_a_link_out_of_the_package_is_refused(iris_package, tmp_path):
    package = iris_package()
    outside = tmp_path / "elsewhere.onnx"
    package.model.rename(outside)
    package.model.symlink_to(outside)
    with pytest.raises(PackageError, match="is a link out of the package"):
        manifests.verify_files(package.path, package.manifest)


def test_a_package_that_is_reached_by_a_link_is_whole(iris_package, tmp_path):
    package = iris_package()
    (tmp_path / "current").symlink_to(package.path)
    manifests.verify_files(tmp_path / "current", package.manifest)
