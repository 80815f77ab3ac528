import pytest

from mlserve_cli.emit import runtime_copy
from mlserve_cli.errors import PackageError


@pytest.fixture
def old_folder(tmp_path):
    """A server folder with an older runtime and a server.py that was changed by hand."""
    (tmp_path / "server.py").write_text("# mine\n")
    (tmp_path / "server.toml").write_text("port = 9000\n")
    copy = tmp_path / runtime_copy.NAME
    copy.mkdir()
    (copy / "VERSION").write_text("0.0.1\n")
    (copy / "gone.py").touch()
    return tmp_path


def test_refresh_renews_the_runtime_and_leaves_what_the_user_changed(old_folder):
    renewed = runtime_copy.refresh(old_folder)

    assert (renewed.before, renewed.after) == ("0.0.1", runtime_copy.version())
    assert (old_folder / "server.py").read_text() == "# mine\n"
    assert (old_folder / "server.toml").read_text() == "port = 9000\n"
    assert not (old_folder / runtime_copy.NAME / "gone.py").exists()
    assert (old_folder / runtime_copy.NAME / "tensors.py").is_file()
    assert sorted(each.name for each in old_folder.iterdir()) == [
        "mlserve_runtime",
        "server.py",
        "server.toml",
    ]


def test_a_refresh_that_fails_keeps_the_old_runtime(old_folder, monkeypatch):
    def full(folder):
        (folder / runtime_copy.NAME).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runtime_copy, "write", full)
    with pytest.raises(PackageError, match="No space left"):
        runtime_copy.refresh(old_folder)

    assert (old_folder / runtime_copy.NAME / "gone.py").exists()
    assert len(list(old_folder.iterdir())) == 3


@pytest.mark.parametrize("missing", ["server.py", runtime_copy.NAME])
def test_what_is_no_server_folder_is_not_refreshed(tmp_path, missing):
    if missing != "server.py":
        (tmp_path / "server.py").touch()

    with pytest.raises(PackageError, match="is not a server folder"):
        runtime_copy.refresh(tmp_path)
    assert runtime_copy.NAME not in {each.name for each in tmp_path.iterdir()}
