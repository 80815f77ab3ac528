"""A new version, from the command line of an operator: deploy, canary, promote, roll back."""

import json
import shutil
import signal
import urllib.request

import numpy as np
import pytest


@pytest.fixture
def repository(iris_package, tmp_path):
    folder = tmp_path / "models"
    iris_package(folder / "iris" / "1", version="1")
    return folder


@pytest.fixture
def second(iris_package, tmp_path):
    return iris_package(tmp_path / "second", version="2").path


def shares(server, count=100):
    """version → how many of so many requests it answered."""
    row = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
    found = {}
    for _ in range(count):
        status, document = server.post("/v2/models/iris/infer", {"inputs": [row]})
        assert status == 200, document
        found[document["model_version"]] = found.get(document["model_version"], 0) + 1
    return found


def near(found, wanted):
    """A share is dealt evenly, so it is met within a request or two of a hundred."""
    return found.keys() == wanted.keys() and all(
        abs(found[version] - count) <= 2 for version, count in wanted.items()
    )


def done(result):
    assert result.returncode == 0, result.stderr
    return result


def test_promise_18_canary_promote_and_rollback_from_the_command_line(
    up, mlserve, repository, second
):
    server = up(repository)
    url = server.url
    assert shares(server, 10) == {"1": 10}

    said = done(mlserve("deploy", second, "--to", url, "--canary", "20"))
    assert "mlserve promote iris" in said.stderr
    assert (repository / "iris" / "2" / "manifest.json").is_file()
    assert near(shares(server), {"1": 80, "2": 20})

    done(mlserve("promote", "iris", "--url", url))
    assert shares(server, 20) == {"2": 20}

    status = json.loads(done(mlserve("status", "--url", url, "--json", "--audit", "9")).stdout)
    assert [(entry["version"], entry["share"]) for entry in status["models"]] == [
        ("1", 0.0),
        ("2", 100.0),
    ]
    assert [entry["action"] for entry in status["audit"]] == ["load", "canary", "promote"]
    assert near({"1": status["models"][0]["requests"]}, {"1": 90})

    done(mlserve("rollback", "iris", "--url", url))
    assert shares(server, 20) == {"1": 20}
    table = done(mlserve("status", "--url", url)).stdout
    assert "iris 1" in table
    assert "100 %" in table


def test_rules_outlive_the_server(up, mlserve, repository, second):
    server = up(repository)
    done(mlserve("deploy", second, "--to", server.url, "--canary", "25"))
    assert near(shares(server), {"1": 75, "2": 25})
    assert server.stop(signal.SIGTERM) == 0

    again = up(repository)

    assert near(shares(again), {"1": 75, "2": 25})
    done(mlserve("rollback", "iris", "--url", again.url))
    assert shares(again, 20) == {"1": 20}
    lines = (repository / ".mlserve" / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["load", "canary", "rollback"]


def test_a_user_stays_with_one_version_while_the_canary_grows(up, mlserve, repository, second):
    server = up(repository)
    sticky = ("--sticky", "header:X-User", "--url", server.url)
    done(mlserve("deploy", second, "--to", server.url, "--hold"))

    done(mlserve("canary", "iris", "2", "20", *sticky))
    few = {user for user in range(60) if version_of(server, user) == "2"}
    assert few == {user for user in range(60) if version_of(server, user) == "2"}
    assert 0 < len(few) < 40

    done(mlserve("canary", "iris", "2", "60", *sticky))
    assert few < {user for user in range(60) if version_of(server, user) == "2"}


def version_of(server, user):
    """The version that answers a user."""
    row = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [5.1, 3.5, 1.4, 0.2]}
    request = urllib.request.Request(
        f"{server.url}/v2/models/iris/infer",
        data=json.dumps({"inputs": [row]}).encode(),
        headers={"X-User": f"user {user}"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)["model_version"]


def test_a_package_that_cannot_be_loaded_is_refused_and_taken_out_again(
    up, mlserve, repository, iris_package, tmp_path
):
    wrong = damaged(iris_package(tmp_path / "wrong", version="2").path)
    server = up(repository)

    result = mlserve("deploy", wrong, "--to", server.url)

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(("error: ", "hint: "))
    assert "the server refused" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (repository / "iris" / "2").exists()
    assert shares(server, 10) == {"1": 10}


def damaged(path):
    """The package with golden predictions that its model does not make, sealed again."""
    from mlserve_cli.package.draft import create
    from mlserve_cli.package.golden import write
    from mlserve_cli.package.package import Package
    from mlserve_cli.runtime import golden
    from mlserve_cli.runtime.golden import Golden

    package = Package.open(path)
    proof = golden.read(package.serve)
    outputs = {name: np.roll(array, 1, axis=-1) for name, array in proof.outputs.items()}
    target = path.with_name("damaged")
    with create(target) as draft:
        shutil.copytree(package.serve, draft.serve, dirs_exist_ok=True)
        (draft.serve / golden.FILE).unlink()
        write(draft.serve, Golden(proof.inputs, outputs))
        draft.seal(package.manifest)
    return target


@pytest.mark.parametrize(
    "command",
    [("status",), ("promote", "iris"), ("rollback", "iris"), ("canary", "iris", "2", "5")],
)
def test_where_nothing_listens_a_command_says_so_in_a_sentence(mlserve, command):
    result = mlserve(*command, "--url", "http://127.0.0.1:9")

    assert result.returncode == 1
    assert result.stderr.startswith("error: no server can be reached at http://127.0.0.1:9")
    assert "hint: " in result.stderr


def test_a_folder_takes_a_package_without_a_server(mlserve, second, tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()

    result = done(mlserve("deploy", second, "--to", folder, "--json"))

    document = json.loads(result.stdout)
    assert document["copied"] is True
    assert document["path"] == str(folder / "iris" / "2")


@pytest.fixture
def keys(tmp_path, monkeypatch):
    """A server that asks for keys: scope → the key that has it."""
    from mlserve_cli.runtime.keys import make, write

    made = {scope: make(f"the-{scope}", [scope]) for scope in ("infer", "admin")}
    write(tmp_path / "keys.json", [kept for kept, _ in made.values()])
    monkeypatch.setenv("MLSERVE_KEYS", str(tmp_path / "keys.json"))
    return {scope: text for scope, (_, text) in made.items()}


def test_a_package_is_sent_over_http_with_an_admin_key_and_no_other(
    up, mlserve, repository, second, keys
):
    server = up(repository)
    send = ("deploy", second, "--to", server.url, "--upload", "--hold")

    without = mlserve(*send)
    assert without.returncode == 1
    assert "MLSERVE_KEY" in without.stderr
    assert mlserve(*send, env={"MLSERVE_KEY": keys["infer"]}).returncode == 1
    assert not (repository / "iris" / "2").exists()

    done(mlserve(*send, env={"MLSERVE_KEY": keys["admin"]}))

    assert (repository / "iris" / "2" / "serve" / "model.onnx").is_file()
    audit = ("status", "--url", server.url, "--json", "--audit", "5")
    status = json.loads(done(mlserve(*audit, env={"MLSERVE_KEY": keys["admin"]})).stdout)
    assert [(entry["version"], entry["share"]) for entry in status["models"]] == [
        ("1", 100.0),
        ("2", 0.0),
    ]
    assert [(entry["who"], entry["action"]) for entry in status["audit"]] == [
        ("the-admin", "deploy")
    ]
    text = (repository / ".mlserve" / "audit.jsonl").read_text()
    assert keys["admin"] not in text + server.output


def test_an_upload_that_cannot_be_loaded_is_refused_and_taken_out_again(
    up, mlserve, repository, iris_package, tmp_path, keys
):
    wrong = damaged(iris_package(tmp_path / "wrong", version="2").path)
    server = up(repository)

    result = mlserve(
        "deploy", wrong, "--to", server.url, "--upload", env={"MLSERVE_KEY": keys["admin"]}
    )

    assert result.returncode == 1
    assert "the server refused" in result.stderr
    assert sorted(path.name for path in (repository / "iris").iterdir()) == ["1"]


def test_a_server_without_keys_takes_no_package_over_http(up, mlserve, repository, second):
    result = mlserve("deploy", second, "--to", up(repository).url, "--upload")

    assert result.returncode == 1
    assert "takes no packages over HTTP" in result.stderr


def test_what_was_loaded_by_hand_is_loaded_again_after_a_restart(
    up, mlserve, repository, second, monkeypatch
):
    monkeypatch.setenv("MLSERVE_EXPLICIT_CONTROL", "true")
    server = up(repository)
    assert server.post("/v2/models/iris/infer", {"inputs": []})[0] == 404
    done(mlserve("deploy", second, "--to", server.url))
    assert shares(server, 5) == {"2": 5}
    assert server.stop() == 0

    assert shares(up(repository), 5) == {"2": 5}
