import json
import os
import shutil
import subprocess
import sys
import venv

import pytest

_BLOCKED = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"mlserve_cli", "torch", "onnx", "typer", "rich", "sklearn"}:
            raise ImportError(f"{name} is not there", name=name)

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
runpy.run_path(sys.argv[1] + "/server.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Remember the folder that the first test had written."""
    return tmp_path_factory.mktemp("written") / "server"


@pytest.fixture
def folder(written, iris_package, mlserve, tmp_path):
    """A server folder of its own, as the command line writes it."""
    if not written.exists():
        done = mlserve("emit", iris_package().path, "-o", written)
        assert done.returncode == 0, done.stderr
        assert "mlserve up" in done.stderr
    return shutil.copytree(written, tmp_path / "server")


def _environment(**more):
    return os.environ | {"MLSERVE_PORT": "0"} | more


def test_the_folder_answers_without_the_toolchain(folder, start):
    server = start(sys.executable, "-P", "-c", _BLOCKED, folder, env=_environment())

    assert server.get("/readyz")[0] == 200
    _client_gets_an_answer(folder, server)
    assert server.stop() == 0


def test_up_runs_the_folders_own_server_so_that_changes_count(folder, up):
    text = (folder / "server.py").read_text()
    text = text.replace(
        "        # Your own:", '        Route("/hello", hello),\n        # Your own:'
    ).replace(
        "app = Starlette(",
        "from starlette.responses import JSONResponse\n"
        "from starlette.routing import Route\n\n\n"
        "async def hello(request):\n"
        '    return JSONResponse({"hello": "world"})\n\n\n'
        "app = Starlette(",
    )
    (folder / "server.py").write_text(text)
    server = up(folder)

    assert server.get("/hello") == (200, {"hello": "world"})
    _client_gets_an_answer(folder, server)
    assert server.stop() == 0


def test_the_folder_says_where_it_is_and_how_to_try_it(folder, start):
    server = start(sys.executable, "server.py", cwd=folder, env=_environment())
    line = server.line(r"(curl .*)$").group(1)

    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30)

    assert "error" not in json.loads(done.stdout)
    assert server.line(r"page: (\S+)").group(1) == server.url + "/"


def test_uvicorn_serves_the_same_app(folder, start):
    server = start(
        sys.executable, "-m", "uvicorn", "server:app", "--port", "0", cwd=folder, env=_environment()
    )

    assert server.get("/readyz")[0] == 200
    _client_gets_an_answer(folder, server)
    server.stop()


def test_a_wrong_setting_is_a_sentence_and_status_3(folder):
    (folder / "server.toml").write_text('port = "eighty"\n')
    done = subprocess.run(
        [sys.executable, "server.py"], cwd=folder, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 3
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_model_is_a_sentence_and_the_server_does_not_start(folder):
    model = folder / "models" / "iris" / "1" / "serve" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    done = subprocess.run(
        [sys.executable, "server.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        env=_environment(),
    )

    assert done.returncode == 3
    assert "model.onnx" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_says_how_it_is_called(folder):
    done = subprocess.run(
        [sys.executable, "client.py", "--help"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "python client.py [URL]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_says_it_when_there_is_no_server(folder):
    done = subprocess.run(
        [sys.executable, "client.py", "http://127.0.0.1:9"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "no server at http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_emit_reports_itself_as_json(iris_package, mlserve, tmp_path):
    done = mlserve("emit", iris_package().path, "-o", "server", "--json")
    document = json.loads(done.stdout)

    assert document["models"][0]["name"] == "iris"
    assert document["sizing"]["iris"]["reasons"]
    assert (tmp_path / document["path"] / "server.py").is_file()


def test_refresh_renews_the_runtime_of_a_folder(folder, mlserve):
    (folder / "mlserve_runtime" / "VERSION").write_text("0.0.1\n")
    (folder / "server.py").write_text("# mine\n")
    done = mlserve("emit", "--refresh", "server", "--json")

    assert json.loads(done.stdout)["before"] == "0.0.1"
    assert (folder / "server.py").read_text() == "# mine\n"
    assert mlserve("emit", "--refresh", "nowhere").returncode == 1


@pytest.mark.parametrize(
    "arguments", [[], ["PKG"], ["--refresh", "server", "-o", "other"], ["PKG", "--refresh", "x"]]
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(mlserve, arguments):
    done = mlserve("emit", *arguments)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_folder_runs_in_an_environment_made_of_its_requirements_alone(folder, start, tmp_path):
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", folder / "requirements.txt"],
        check=True,
        timeout=500,
    )
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True
    )
    names = {each["name"].lower() for each in json.loads(listed.stdout)}
    assert not names & {"torch", "onnx", "mlserve-cli", "typer", "rich"}

    server = start(python, "server.py", cwd=folder, env=_environment())
    assert server.get("/readyz")[0] == 200
    _client_gets_an_answer(folder, server, python=python)
    assert server.stop() == 0


def _client_gets_an_answer(folder, server, python=sys.executable):
    done = subprocess.run(
        [python, "client.py", server.url], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    path, _, answer = done.stdout.partition(": ")
    assert path.startswith(("/predict/iris", "/v2/models/iris"))
    assert "error" not in json.loads(answer)
