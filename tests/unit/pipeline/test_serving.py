import pytest

from mlserve_cli.errors import PackageError, exit_code
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import serving


def test_an_onnx_file_is_recognized_whatever_it_is_called(iris_onnx, tmp_path):
    renamed = tmp_path / "weights.bin"
    renamed.write_bytes(iris_onnx.read_bytes())

    assert serving.recognize(renamed) == "onnx"


def test_a_file_that_was_cut_short_is_refused_wherever_it_was_cut(iris_onnx, tmp_path):
    import onnx

    whole = iris_onnx.read_bytes()
    cut = tmp_path / "cut.onnx"
    ends = _ends_of_fields(onnx.load(iris_onnx))
    for length in set(range(1, len(whole))) - ends:
        cut.write_bytes(whole[:length])
        with pytest.raises(PackageError, match="is not a whole ONNX file"):
            serving.recognize(cut)


def _ends_of_fields(model):
    """Where the graph has ended and only the opset is missing: still a readable message."""
    opset = type(model)()
    opset.opset_import.extend(model.opset_import)
    return {model.ByteSize() - opset.ByteSize()}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("notes.txt", b"These are not weights.", "is no ONNX file"),
        ("model.onnx", b"These are not weights.", "is not a whole ONNX file"),
        ("model.onnx", b"\x80\x04\x95pickled", "is not a whole ONNX file"),
        ("model.onnx", b"\xff" * 64, "is not a whole ONNX file"),
        ("model.onnx", b"", "is empty"),
        ("model.py", b"def model(): ...", "can be served once it is a package"),
        ("manifest.json", b"{}", "is one file of a folder"),
    ],
)
def test_a_file_that_is_none_of_them_is_named_for_what_it_is(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_bytes(content)

    with pytest.raises(PackageError, match=said) as caught:
        serving.recognize(file)
    assert caught.value.hint
    assert exit_code(caught.value) == 1


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(PackageError, match="does not exist"):
        serving.recognize(tmp_path / "nothing")


def test_a_device_is_neither_file_nor_folder():
    from pathlib import Path

    with pytest.raises(PackageError, match="neither a file nor a folder"):
        serving.recognize(Path("/dev/null"))


def test_folders_are_recognized_by_what_is_in_them(iris_package, tmp_path):
    package = iris_package(tmp_path / "repo" / "iris" / "1")
    flat = tmp_path / "flat"
    iris_package(flat / "one")
    server = tmp_path / "server"
    server.mkdir()
    (server / "server.py").touch()
    (server / "server.toml").touch()

    assert serving.recognize(package.path) == "package"
    assert serving.recognize(tmp_path / "repo") == "repository"
    assert serving.recognize(flat) == "repository"
    assert serving.recognize(server) == "server"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "is an empty folder"),
        (("model.py",), "holds a model definition"),
        (("a.onnx",), "is a plain folder with 1 ONNX file"),
        (("server.toml", "mlserve_runtime/VERSION"), r"without its server\.py"),
        (("notes.txt",), "holds no package"),
        (("a/b/c/manifest.json",), "holds no package"),
    ],
)
def test_a_folder_that_is_none_of_them_is_named_for_what_it_is(tmp_path, files, said):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    with pytest.raises(PackageError, match=said) as caught:
        serving.recognize(tmp_path)
    assert caught.value.hint


def test_a_model_in_a_file_of_any_name_is_packaged(iris_onnx, tmp_path):
    renamed = tmp_path / "my weights (1).bin"
    renamed.write_bytes(iris_onnx.read_bytes())

    assert serving.packaged(renamed, progress=Silent()).manifest.name == "my-weights-1"


def test_an_onnx_file_is_packaged_once_and_again_when_its_content_changes(iris_onnx, tmp_path):
    file = tmp_path / "iris.onnx"
    file.write_bytes(iris_onnx.read_bytes())
    first = serving.packaged(file, progress=Silent())
    made = (first.path / "manifest.json").stat().st_mtime_ns

    again = serving.packaged(file, progress=Silent())
    assert again.path == first.path
    assert (again.path / "manifest.json").stat().st_mtime_ns == made
    assert again.manifest.sample == "synthetic"

    import onnx

    model = onnx.load(file)
    model.producer_name = "another"
    onnx.save(model, file)
    assert serving.packaged(file, progress=Silent()).path != first.path


def test_a_damaged_entry_of_the_cache_is_made_again(iris_onnx):
    package = serving.packaged(iris_onnx, progress=Silent())
    package.model.write_bytes(b"damaged")

    again = serving.packaged(iris_onnx, progress=Silent())

    assert again.path == package.path
    assert again.model.read_bytes() != b"damaged"


def test_a_file_that_is_an_onnx_file_on_the_outside_only_is_refused(tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x08\x0a\x3a\x02\xff\xff")  # a graph of two bytes that mean nothing

    with pytest.raises(PackageError, match="is not a whole ONNX file"):
        serving.packaged(file, progress=Silent())
    assert not list(serving.cache().rglob("*.json"))


def test_the_cache_key_covers_weights_that_lie_beside_the_file(iris_onnx, tmp_path):
    import onnx

    file = tmp_path / "iris.onnx"
    onnx.save_model(
        onnx.load(iris_onnx),
        file,
        save_as_external_data=True,
        location="iris.data",
        size_threshold=0,
    )
    assert (tmp_path / "iris.data").is_file()
    before = serving.content_key(file)
    data = bytearray((tmp_path / "iris.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "iris.data").write_bytes(data)

    assert serving.content_key(file) != before


def test_weights_that_are_missing_beside_the_file_are_named(iris_onnx, tmp_path):
    import onnx

    from mlserve_cli.errors import MlserveError

    file = tmp_path / "iris.onnx"
    onnx.save_model(
        onnx.load(iris_onnx),
        file,
        save_as_external_data=True,
        location="iris.data",
        size_threshold=0,
    )
    (tmp_path / "iris.data").unlink()

    with pytest.raises(MlserveError, match=r"iris\.data' cannot be read"):
        serving.content_key(file)


def test_the_cache_lies_where_the_xdg_base_directory_says(tmp_path):
    assert serving.cache({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "mlserve"
    assert serving.cache({"XDG_CACHE_HOME": ""}).parts[-2:] == (".cache", "mlserve")
