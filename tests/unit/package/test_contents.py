import numpy as np
import pytest

from mlserve_cli.errors import PackageError
from mlserve_cli.package import contents


def test_a_file_is_known_by_what_is_in_it(tmp_path):
    for name, text in (("a.csv", "1,2"), ("b.csv", "1,2"), ("c.csv", "1,3")):
        (tmp_path / name).write_text(text)
    first, same, other = (contents.digest(str(tmp_path / f"{name}.csv")) for name in "abc")
    assert first == same != other
    assert contents.digest(str(tmp_path / "missing.csv")) == ""


def test_code_with_its_function_is_known_by_the_file(tmp_path):
    (tmp_path / "rows.py").write_text("def some(): yield 1")
    named = str(tmp_path / "rows.py") + ":some"
    before = contents.digest(named)
    assert before.startswith("sha256:")
    (tmp_path / "rows.py").write_text("def some(): yield 2")
    assert contents.digest(named) != before
    assert contents.is_code(named)
    assert not contents.is_code(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize("change", ["content", "name", "one more"])
def test_a_folder_is_known_by_the_names_and_contents_of_its_files(tmp_path, change):
    picture = tmp_path / "zero" / "1.npy"
    picture.parent.mkdir()
    np.save(picture, np.zeros(3))
    before = contents.digest(str(tmp_path))
    assert contents.digest(str(tmp_path)) == before
    if change == "content":
        np.save(picture, np.ones(3))
    elif change == "name":
        picture.rename(picture.with_name("2.npy"))
    else:
        np.save(picture.with_name("2.npy"), np.zeros(3))
    assert contents.digest(str(tmp_path)) != before


def test_a_package_is_known_by_its_own_digest(iris_package):
    package = iris_package()
    assert contents.digest(str(package.path)) == package.manifest.digest
    (package.path / "manifest.json").write_text("{")
    with pytest.raises(PackageError):
        contents.digest(str(package.path))
