"""A package arrives whole or not at all, in the place where a server looks for it."""

import os
import shutil

import pytest

from mlserve_cli.deploy.delivery import deliver
from mlserve_cli.errors import PackageError
from mlserve_cli.package.package import Package
from mlserve_cli.runtime import repository as repositories
from mlserve_cli.runtime.delivery import draft, find, target_of


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))


def test_a_package_lies_under_its_name_and_version_and_is_served(repository, iris_package):
    package = iris_package()
    (package.path / "source").mkdir()
    (package.path / "source" / "train.py").write_text("secret")

    delivered = deliver(package, repository)

    assert delivered.is_new
    assert delivered.path == repository / "iris" / "1"
    assert Package.open(delivered.path).manifest == package.manifest
    assert not (delivered.path / "source").exists()
    assert [found.path for found in repositories.find(repository)] == [delivered.path]


def test_the_same_package_again_is_left_as_it_is(repository, iris_package):
    package = iris_package()
    first = deliver(package, repository)

    again = deliver(package, repository)

    assert (again.path, again.is_new) == (first.path, False)
    again.take_back()
    assert first.path.exists()


def test_another_package_of_the_same_version_is_refused_unless_it_may_be_replaced(
    repository, iris_package, tmp_path
):
    deliver(iris_package(), repository)
    other = iris_package(tmp_path / "other", description="another one")

    with pytest.raises(PackageError, match="holds another 'iris' version 1"):
        deliver(other, repository)

    delivered = deliver(other, repository, replace=True)
    delivered.settle()
    assert Package.open(delivered.path).manifest == other.manifest
    assert names(repository) == ["iris/1"]


def test_a_replacement_that_is_taken_back_leaves_the_old_one(repository, iris_package, tmp_path):
    old = iris_package()
    deliver(old, repository)

    delivered = deliver(
        iris_package(tmp_path / "other", description="new"), repository, replace=True
    )
    delivered.take_back()

    assert Package.open(repository / "iris" / "1").manifest == old.manifest
    assert names(repository) == ["iris/1"]


def test_a_delivery_that_is_taken_back_leaves_no_trace(repository, iris_package):
    deliver(iris_package(), repository).take_back()

    assert list(repository.iterdir()) == []


def test_beside_a_package_that_lies_flat_the_new_one_lies_flat_as_well(
    repository, iris_package, tmp_path
):
    iris_package(repository / "iris")
    newer = iris_package(tmp_path / "newer", version="2")

    delivered = deliver(newer, repository)

    assert delivered.path == repository / "iris-2"
    assert [found.manifest.version for found in repositories.find(repository)] == ["1", "2"]


def test_a_package_changed_while_it_is_copied_is_refused_and_swept_up(repository, iris_package):
    package = iris_package()
    model = package.serve / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")

    with pytest.raises(PackageError, match="SHA-256 differs"):
        deliver(package, repository)

    assert list(repository.iterdir()) == []


def test_a_folder_that_is_not_here_is_told(tmp_path, iris_package):
    with pytest.raises(PackageError, match="no folder on this machine"):
        deliver(iris_package(), tmp_path / "elsewhere")


def test_nothing_is_put_into_a_package(iris_package, tmp_path):
    served = iris_package()

    with pytest.raises(PackageError, match="is one package"):
        deliver(iris_package(tmp_path / "other", version="2"), served.path)


def test_what_is_in_the_way_is_not_replaced(repository, iris_package):
    package = iris_package()
    (repository / "iris" / "1").mkdir(parents=True)

    with pytest.raises(PackageError, match="in the way"):
        target_of(repository, package.manifest)


def test_drafts_and_damaged_neighbours_are_passed_over(repository, iris_package, tmp_path):
    package = iris_package()
    shutil.copytree(package.path, repository / ".iris.1234.part")
    (repository / "broken").mkdir()
    (repository / "broken" / "manifest.json").write_text("{")

    assert find(repository, package.manifest) is None


def test_what_a_killed_delivery_left_is_swept_up_and_what_is_on_its_way_is_not(
    repository, iris_package
):
    def age(folder):
        (folder / "package.tar").write_bytes(b"x" * 1000)
        os.utime(folder, (0, 0))

    left, fresh = repository / ".delivery.left", repository / ".delivery.fresh"
    left.mkdir()
    age(left)
    fresh.mkdir()  # its maker has not come to lock it yet
    (repository / ".delivery.file").write_text("no draft")
    with draft(repository) as going_on:
        age(going_on)
        deliver(iris_package(), repository)

        assert (going_on / "package.tar").exists()
        assert not left.exists()
    assert sorted(path.name for path in repository.iterdir()) == [
        ".delivery.file",
        ".delivery.fresh",
        "iris",
    ]
