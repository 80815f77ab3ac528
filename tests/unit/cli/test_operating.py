"""The commands around a running server: what they say, in text and in JSON, and when they fail."""

import json

import pytest
from typer.testing import CliRunner

from mlserve_cli.cli import remote
from mlserve_cli.cli.main import app


def entry(version, share, **facts):
    return {
        "name": "iris",
        "version": version,
        "state": "READY",
        "reason": None,
        "share": share,
        "labels": [],
        "shadow": 0.0,
        "requests": 1200,
        "failures": 3,
        "mean_ms": 0.25,
        "queue_rows": 0,
    } | facts


class FakeClient:
    """Answers every operation with `versions`; remembers what it was asked for."""

    url = "http://127.0.0.1:8000"

    def __init__(self):
        self.asked = []
        self.versions = [entry("1", 90.0), entry("2", 10.0, labels=["next"])]
        self.kept = True
        self.ready = True

    def __getattr__(self, name):
        def operation(*arguments, **named):
            self.asked.append((name, *arguments, named))
            return {"name": "iris", "versions": self.versions, "kept": self.kept, "rule": None}

        return operation

    def status(self):
        return {"ready": self.ready, "uptime_s": 5.0, "models": self.versions}

    def audit(self, limit):
        return [{"time": "now", "who": "ci", "action": "load", "model": "iris", "outcome": "done"}]


@pytest.fixture
def client(monkeypatch):
    fake = FakeClient()
    monkeypatch.setattr(remote, "client", lambda url, key, ca: fake)
    return fake


def run(line):
    return CliRunner().invoke(app, line.split())


def test_a_canary_is_told_with_its_shares_and_what_comes_next(client):
    result = run("canary iris 2 10 --sticky header:X-User")

    assert result.exit_code == 0
    assert client.asked == [("canary", "iris", "2", 10.0, {"sticky": "header:X-User"})]
    assert "iris 1  90 %" in result.stderr
    assert "iris 2  10 %  next" in result.stderr
    assert "mlserve promote iris" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("promote iris", ("promote", "iris", None, {})),
        ("promote iris 2", ("promote", "iris", "2", {})),
        ("rollback iris", ("rollback", "iris", {})),
    ],
)
def test_an_operation_prints_one_json_document(client, line, asked):
    result = run(f"{line} --json")

    assert client.asked == [asked]
    assert json.loads(result.stdout)["schema"] == 1
    assert result.stderr == ""


def test_a_change_that_is_not_kept_is_told(client):
    client.kept = False

    assert "until the server restarts" in run("promote iris").stderr


def test_status_has_a_row_for_each_version_and_says_what_is_wrong(client):
    client.versions.append(
        {
            "name": "iris",
            "version": "3",
            "state": "UNAVAILABLE",
            "reason": "its answers differ",
            "share": 0.0,
            "labels": [],
            "shadow": 5.0,
        }
    )
    result = run("status --audit 1")

    assert result.exit_code == 0
    for text in ("iris 1", "90 %", "1,200", "0.25", "next", "its answers differ", "shadow of 5 %"):
        assert text in result.stdout
    assert "ci  load  iris" in result.stdout


def test_status_of_a_server_that_is_not_ready_exits_with_1(client):
    client.ready = False
    result = run("status --json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["ready"] is False


@pytest.mark.parametrize("percent", ["101", "-1", "many"])
def test_a_share_that_is_none_is_a_usage_error(client, percent):
    result = run(f"canary iris 2 {percent}")

    assert result.exit_code == 2
    assert client.asked == []


def test_a_package_is_uploaded_held_back_and_given_its_share(client, iris_package):
    package = iris_package(version="2").path

    result = run(f"deploy {package} --to http://127.0.0.1:8000 --upload --canary 10")

    assert result.exit_code == 0, result.stderr
    (upload, opened, named), canary = client.asked
    assert (upload, named) == ("upload", {"replace": False, "hold": True})
    assert opened.manifest.version == "2"
    assert canary == ("canary", "iris", "2", 10.0, {})
    assert "mlserve promote iris, or mlserve rollback iris" in result.stderr


def test_a_folder_has_no_traffic_to_give_a_share_of(client, iris_package, tmp_path):
    result = run(f"deploy {iris_package().path} --to {tmp_path} --canary 10")

    assert result.exit_code == 2
    assert "a folder has no traffic" in result.stderr


def test_status_shows_how_right_each_version_was_and_how_sure_that_is(client):
    client.versions[0]["feedback"] = {
        "joined": 200,
        "classes": 200,
        "agreed": 180,
        "accuracy": 0.9,
        "arms": {"default": {"joined": 200, "classes": 200, "agreed": 180, "accuracy": 0.9}},
    }
    client.versions[1]["feedback"] = {
        "joined": 40,
        "values": 40,
        "mean_absolute_error": 1.25,
        "root_mean_squared_error": 2.0,
        "arms": {},
    }

    text = run("status").stdout
    assert "90.0 % right [85.1, 93.4] of 200" in text
    assert "off by 1.25 on average, of 40" in text

    [first, _] = json.loads(run("status --json").stdout)["models"]
    assert first["feedback"]["accuracy_interval"] == pytest.approx([0.8506, 0.9343], abs=1e-4)
    assert "accuracy_interval" in first["feedback"]["arms"]["default"]


def test_status_has_no_column_for_truth_that_nobody_sent(client):
    assert "by the truth" not in run("status").stdout
