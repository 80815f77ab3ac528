"""Every setting is a flag of `up`, and `keys` makes what a server takes."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlserve_cli.cli.main import app
from mlserve_cli.runtime.configuration import flag
from mlserve_cli.runtime.settings import TABLES, Settings


@pytest.fixture
def package(iris_package, tmp_path):
    return iris_package(tmp_path / "iris").path


def test_the_help_names_every_setting():
    text = CliRunner().invoke(app, ["up", "--help"], env={"COLUMNS": "200"}).stdout
    for name in set(Settings.__struct_fields__) - {"models", *TABLES}:
        assert flag(name) in text


def test_the_configuration_says_where_each_value_comes_from(package, monkeypatch):
    monkeypatch.setenv("MLSERVE_MAX_QUEUE_ROWS", "7")
    arguments = ["up", str(package), "--port", "9", "--insecure", "--print-config"]
    lines = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert "port = 9  # --port" in lines
    assert "insecure = true  # --insecure" in lines
    assert "max_queue_rows = 7  # MLSERVE_MAX_QUEUE_ROWS" in lines
    assert 'host = "127.0.0.1"  # default' in lines


def test_as_json_the_configuration_is_one_document(package, monkeypatch):
    monkeypatch.setenv("MLSERVE_MAX_QUEUE_ROWS", "7")
    arguments = ["up", str(package), "--port", "9", "--print-config", "--json"]
    document = json.loads(CliRunner().invoke(app, arguments).stdout)
    found = document["settings"]
    assert found.keys() == set(Settings.__struct_fields__)
    assert found["port"] == {"value": 9, "origin": "--port"}
    assert found["max_queue_rows"] == {"value": 7, "origin": "MLSERVE_MAX_QUEUE_ROWS"}
    assert found["log_level"] == {"value": "info", "origin": "default"}
    assert found["models"] == {"value": str(package), "origin": "the command line"}


def test_of_a_server_folder_the_file_the_environment_and_the_flags_are_told_apart(
    tmp_path, monkeypatch
):
    (tmp_path / "server.py").touch()
    (tmp_path / "server.toml").write_text(
        'port = 1\nlog_format = "json"\nmax_queue_rows = 5\n[versions]\n"*" = 2\n'
    )
    monkeypatch.setenv("MLSERVE_PORT", "2")
    monkeypatch.setenv("MLSERVE_LOG_FORMAT", "text")
    arguments = ["up", str(tmp_path), "--port", "3", "--print-config"]
    text = CliRunner().invoke(app, arguments).stdout
    lines = text.splitlines()
    file = tmp_path / "server.toml"
    assert "port = 3  # --port" in lines
    assert 'log_format = "text"  # MLSERVE_LOG_FORMAT' in lines
    assert f"max_queue_rows = 5  # {file}" in lines
    assert f"[versions]  # {file}" in lines
    assert 'models = "models"  # default' in lines
    assert tomllib.loads(text)["versions"] == {"*": 2}


def test_a_file_named_on_the_command_line_is_found_from_where_the_user_stands(
    package, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments = ["up", str(package), "--keys", "keys.json", "--print-config"]
    assert f'keys = "{tmp_path / "keys.json"}"' in CliRunner().invoke(app, arguments).stdout


def test_a_key_is_made_shown_once_listed_and_removed(tmp_path: Path):
    file = str(tmp_path / "keys.json")
    made = json.loads(
        CliRunner().invoke(app, ["keys", "add", "web", "--file", file, "--json"]).stdout
    )
    assert made["key"] not in Path(file).read_text()
    listed = json.loads(CliRunner().invoke(app, ["keys", "list", "--file", file, "--json"]).stdout)
    assert [(key["name"], key["scopes"]) for key in listed["keys"]] == [("web", ["infer"])]
    assert CliRunner().invoke(app, ["keys", "remove", "web", "--file", file]).exit_code == 0
    assert CliRunner().invoke(app, ["keys", "remove", "web", "--file", file]).exit_code != 0
