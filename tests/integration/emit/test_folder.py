import errno
import json
import os
import stat

import pytest

from mlserve_cli.emit import folder
from mlserve_cli.emit.folder import emit
from mlserve_cli.errors import PackageError
from mlserve_cli.package.progress import Silent
from mlserve_cli.runtime import manifest as manifests
from mlserve_cli.runtime import settings, sizing
from mlserve_cli.runtime.sizing import Sizing

MEASURED = Sizing(
    threads=3,
    max_batch=17,
    reasons={"threads": "three measured best", "max_batch": "more brings nothing"},
)


@pytest.fixture
def measures():
    """Whether a test wants the real measurement, which takes a second."""
    return False


@pytest.fixture(autouse=True)
def _quick(measures, monkeypatch):
    if not measures:
        monkeypatch.setattr(sizing, "measure", lambda *_: MEASURED)


def _files(path):
    return {each.relative_to(path).as_posix() for each in path.rglob("*") if each.is_file()}


@pytest.fixture
def server_folder(iris_package, tmp_path):
    """A server folder that serves the flowers."""
    return emit([iris_package().path], tmp_path / "server", progress=Silent()).path


def test_a_server_folder_holds_all_that_its_readme_names(server_folder):
    files = _files(server_folder)

    assert {
        ".dockerignore",
        "Dockerfile",
        "README.md",
        "client.py",
        "mlserve_runtime/VERSION",
        "mlserve_runtime/__init__.py",
        "mlserve_runtime/page.html",
        "models/iris/1/manifest.json",
        "models/iris/1/serve/golden.npz",
        "models/iris/1/serve/model.onnx",
        "requirements.txt",
        "server.py",
        "server.toml",
    } <= files
    assert not [name for name in files if "__pycache__" in name]


def test_no_placeholder_is_left_in_any_file(server_folder):
    for name in ("server.py", "client.py", "README.md", "Dockerfile", ".dockerignore"):
        assert "@" not in (server_folder / name).read_text().replace("--data-binary @", ""), name


def test_the_server_is_short_enough_to_read_in_a_minute(server_folder):
    assert len((server_folder / "server.py").read_text().splitlines()) <= 45


def test_a_model_in_the_folder_is_whole_and_has_nothing_that_only_training_needs(
    iris_package, tmp_path
):
    package = iris_package()
    package.add_evidence("accuracy", {"value": 0.9})
    (package.serve / "left-behind.txt").write_text("not in the manifest")
    path = emit([package.path], tmp_path / "server", progress=Silent()).path
    model = path / "models" / "iris" / "1"

    manifest = manifests.read(model)
    manifests.verify_files(model, manifest)
    assert manifest.digest == package.manifest.digest
    assert {name.split("/")[0] for name in _files(model)} == {"manifest.json", "serve"}
    assert "serve/left-behind.txt" not in _files(model)


def test_each_number_of_the_sizing_stands_in_server_toml_with_its_reason(server_folder):
    text = (server_folder / "server.toml").read_text()
    loaded = settings.load(server_folder / "server.toml", {})

    assert loaded.sizing["iris"].max_batch == MEASURED.max_batch
    assert loaded.sizing["iris"].threads == MEASURED.threads
    for reason in MEASURED.reasons.values():
        assert f"# {reason}" in text


@pytest.mark.parametrize("measures", [True])
def test_the_sizing_is_measured_on_this_machine(iris_package, tmp_path, measures):
    emitted = emit([iris_package().path], tmp_path / "server", progress=Silent())

    assert emitted.settings.sizing["iris"].reasons
    assert emitted.settings.sizing["iris"] != MEASURED


def test_two_versions_of_one_model_are_served_side_by_side(iris_package, tmp_path):
    one = iris_package(tmp_path / "one").path
    two = iris_package(tmp_path / "two", version="2").path

    path = emit([one, two], tmp_path / "server", progress=Silent()).path

    assert sorted(each.name for each in (path / "models" / "iris").iterdir()) == ["1", "2"]


def test_two_packages_of_one_name_and_version_are_refused(iris_package, tmp_path):
    one = iris_package(tmp_path / "one").path
    two = iris_package(tmp_path / "two").path

    with pytest.raises(PackageError, match="are both 'iris' version '1'"):
        emit([one, two], tmp_path / "server", progress=Silent())
    assert not (tmp_path / "server").exists()


def test_a_package_that_was_tampered_with_is_refused(iris_package, tmp_path):
    package = iris_package()
    package.model.write_bytes(b"something else")

    with pytest.raises(PackageError, match="bytes where the manifest says"):
        emit([package.path], tmp_path / "server", progress=Silent())
    assert not (tmp_path / "server").exists()


def test_a_place_that_is_taken_is_refused_and_force_replaces_only_server_folders(
    iris_package, server_folder, tmp_path
):
    package = iris_package(tmp_path / "again")
    with pytest.raises(PackageError, match="exists already") as caught:
        emit([package.path], server_folder, progress=Silent())
    assert "--refresh" in caught.value.hint

    (server_folder / "mine.txt").touch()
    emit([package.path], server_folder, overwrite=True, progress=Silent())
    assert not (server_folder / "mine.txt").exists()

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").touch()
    with pytest.raises(PackageError, match="is not a server folder"):
        emit([package.path], precious, overwrite=True, progress=Silent())
    assert (precious / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), PackageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_interruption_leaves_nothing_and_keeps_what_was_there(
    iris_package, server_folder, tmp_path, monkeypatch, raised, expected
):
    package = iris_package(tmp_path / "again").path
    before = _files(server_folder)
    around = sorted(tmp_path.iterdir())

    def fail(*_):
        raise raised

    monkeypatch.setattr(folder, "flush", fail)
    with pytest.raises(expected):
        emit([package], server_folder, overwrite=True, progress=Silent())

    assert sorted(tmp_path.iterdir()) == around
    assert _files(server_folder) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_written_is_a_sentence(iris_package, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)

    with pytest.raises(PackageError, match="cannot be written"):
        emit([iris_package().path], closed / "server", progress=Silent())


def test_a_picture_model_comes_with_a_picture_to_send(picture_package, tmp_path):
    from PIL import Image

    path = emit([picture_package().path], tmp_path / "server", progress=Silent()).path

    with Image.open(path / "examples" / "digits.png") as picture:
        assert picture.size == (8, 8)
    assert "pillow==" in (path / "requirements.txt").read_text()
    assert "/predict/digits" in (path / "README.md").read_text()


def test_the_picture_that_the_client_sends_gets_the_golden_answer(picture_package, tmp_path):
    from starlette.testclient import TestClient

    from mlserve_cli.runtime import golden
    from mlserve_cli.runtime.app import build_app
    from mlserve_cli.runtime.server import Server

    package = picture_package()
    path = emit([package.path], tmp_path / "server", progress=Silent()).path
    server = Server(settings.load(path / "server.toml", {}), path)
    with TestClient(build_app(server)) as client:
        answer = client.post(
            "/predict/digits",
            content=(path / "examples" / "digits.png").read_bytes(),
            headers={"Content-Type": "image/png"},
        ).json()

    expected = golden.read(package.serve).outputs["logits"][0].argmax()
    assert f'"label": "{expected}"' in json.dumps(answer)
