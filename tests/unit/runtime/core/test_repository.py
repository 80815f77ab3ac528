import pytest

from mlserve_cli.runtime.errors import PackageError, StartupError
from mlserve_cli.runtime.repository import find


def names(path):
    return [(found.manifest.name, found.manifest.version) for found in find(path)]


def test_one_package_is_found(iris_package):
    package = iris_package()

    (found,) = find(package.path)

    assert found.path == package.path
    assert found.manifest == package.manifest


def test_packages_side_by_side_and_by_version_are_found_in_order(iris_package, tmp_path):
    root = tmp_path / "models"
    iris_package(root / "b" / "10", name="b", version="10")
    iris_package(root / "b" / "9", name="b", version="9")
    iris_package(root / "alone", name="a")

    assert names(root) == [("a", "1"), ("b", "9"), ("b", "10")]


def test_drafts_and_hidden_folders_are_passed_over(iris_package, tmp_path):
    root = tmp_path / "models"
    iris_package(root / "one")
    iris_package(root / ".one.part", name="two")
    iris_package(root / "x" / ".hidden", name="three")

    assert names(root) == [("iris", "1")]


def test_what_lies_inside_a_package_is_no_package_of_its_own(iris_package, tmp_path):
    root = tmp_path / "models"
    outer = iris_package(root / "one")
    iris_package(outer.path / "source", name="inner")

    assert names(root) == [("iris", "1")]


@pytest.mark.parametrize(("make", "what"), [(True, "has no packages in it"), (False, "not exist")])
def test_nothing_to_serve_is_a_sentence(tmp_path, make, what):
    path = tmp_path / "models"
    if make:
        path.mkdir()
        (path / "a file").touch()

    with pytest.raises(StartupError, match=what):
        find(path)


def test_two_packages_of_one_name_and_version_are_refused(iris_package, tmp_path):
    root = tmp_path / "models"
    iris_package(root / "one")
    iris_package(root / "two")

    with pytest.raises(StartupError, match="are both 'iris' version '1'"):
        find(root)


def test_a_damaged_package_is_refused_by_name(iris_package, tmp_path):
    root = tmp_path / "models"
    package = iris_package(root / "one")
    package.model.write_bytes(b"x" * package.model.stat().st_size)

    with pytest.raises(PackageError, match=r"model\.onnx"):
        find(root)
