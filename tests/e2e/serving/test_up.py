import json
import shlex
import signal
import socket
import subprocess

import numpy as np
import pytest


def test_an_onnx_file_is_served_and_says_that_its_proofs_are_synthetic(up, iris_onnx):
    server = up(iris_onnx)

    assert server.get("/readyz")[0] == 200
    status, answer = server.post("/predict/iris", {"rows": [[5.1, 3.5, 1.4, 0.2]]})
    assert status == 200, answer
    assert "synthetic" in server.output
    assert server.stop() == 0


def test_the_curl_line_that_up_prints_works(up, iris_package):
    server = up(iris_package().path)
    line = server.line(r"(curl .*)$").group(1)

    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0
    assert "error" not in json.loads(done.stdout)
    assert server.url in line


def test_a_folder_of_packages_serves_each_of_them(up, iris_package, tmp_path):
    iris_package(tmp_path / "repo" / "one", name="one")
    iris_package(tmp_path / "repo" / "two", name="two")
    server = up(tmp_path / "repo")

    for name in ("one", "two"):
        assert server.get(f"/v2/models/{name}")[1]["name"] == name


def test_up_gives_the_answers_of_the_engine_in_process(up, iris_package, iris):
    package = iris_package()
    rows = iris[0][:50]
    engine = package.engine()
    expected = engine.run({"x": rows})["scores"]
    engine.close()
    server = up(package.path)

    status, answer = server.post(
        "/v2/models/iris/infer",
        {
            "inputs": [
                {"name": "x", "shape": [50, 4], "datatype": "FP32", "data": rows.ravel().tolist()}
            ]
        },
    )

    assert status == 200, answer
    found = np.array(answer["outputs"][0]["data"], np.float32).reshape(50, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_status_0(up, iris_package, number):
    server = up(iris_package().path)
    assert server.get("/livez")[0] == 200

    assert server.stop(number) == 0
    assert "Traceback" not in server.output


def test_a_port_in_use_is_a_sentence_and_status_3(mlserve, iris_package):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = mlserve("up", iris_package().path, "--port", port)

    assert done.returncode == 3
    assert str(port) in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_package_is_refused_with_status_1(mlserve, iris_package):
    package = iris_package()
    package.model.write_bytes(package.model.read_bytes()[:-1])
    done = mlserve("up", package.path)

    assert done.returncode == 1, done.stderr
    assert "model.onnx" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_package_of_a_newer_schema_is_refused_with_status_1(mlserve, iris_package):
    package = iris_package()
    manifest = package.path / "manifest.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"schema": 99}))
    done = mlserve("up", package.path)

    assert done.returncode == 1, done.stderr
    assert "schema 99" in done.stderr


def test_an_empty_folder_is_refused_with_status_1(mlserve, tmp_path):
    (tmp_path / "empty").mkdir()
    done = mlserve("up", "empty")

    assert done.returncode == 1
    assert "is an empty folder" in done.stderr


def test_a_wrong_flag_is_a_usage_error(mlserve, iris_onnx):
    assert mlserve("up", iris_onnx, "--port", "99999").returncode == 2
    assert mlserve("up").returncode == 2


def test_up_reports_itself_as_json(start, iris_package):
    import sys
    from pathlib import Path

    command = Path(sys.executable).with_name("mlserve")
    server = start(command, "up", iris_package().path, "--port", "0", "--json")
    server.line(r"^}$")
    text = server.output
    document = json.loads(text[text.index("{") : text.rindex("}") + 1])

    assert document["url"] == server.url
    assert document["models"][0]["name"] == "iris"
    assert document["models"][0]["sizing"]["reasons"]
    assert shlex.split(document["models"][0]["curl"])[0] == "curl"


def test_verbose_says_how_each_model_runs_and_why(up, iris_package):
    server = up(iris_package().path, "--verbose")

    server.line(r"^\s+\w+: .+")
