"""A wrong option is a usage error, before anything is opened."""

import json

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from mlserve_cli.cli import console
from mlserve_cli.cli.main import app
from mlserve_cli.errors import PackageError
from mlserve_cli.package.verify import verify


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("quantize PKG -o OUT --max-drop nan", "--max-drop"),
        ("quantize PKG -o OUT --max-drop -1", "--max-drop"),
        ("quantize PKG -o OUT --target diagnosis", "--target"),
        ("quantize PKG -o OUT --batch 0", "--batch"),
        ("quantize PKG -o OUT --percentile 99", "--percentile"),
        ("quantize PKG -o OUT --calibrator percentile --percentile 50", "--percentile"),
        ("quantize PKG -o OUT --method dynamic --smooth", "--smooth"),
        ("quantize PKG -o OUT --method fp16 --target-isa arm", "--target-isa"),
        ("quantize PKG -o OUT --method dynamic --fuse", "--fuse"),
        ("quantize PKG -o OUT --method dynamic --no-fuse", "--no-fuse"),
        ("quantize PKG -o OUT --method int8-weights --algorithm hqq", "--algorithm"),
        ("quantize PKG -o OUT --method bf16 --exclude head", "--exclude"),
        ("quantize PKG -o OUT --budget 10m", "--budget"),
        ("quantize PKG -o OUT --resume", "--resume"),
        ("quantize PKG -o OUT --method dynamic --accuracy-aware", "--accuracy-aware"),
        (
            "quantize PKG -o OUT --quantizer neural-compressor --accuracy-aware",
            "--accuracy-aware",
        ),
        ("prune PKG -o OUT --epochs 0", "--epochs"),
        ("prune PKG --macs 0.5", "--output"),
        ("prune PKG -o OUT --html page.html", "--html"),
        ("prune PKG -o OUT --scope everything", "--scope"),
        ("prune PKG -o OUT --drop-blocks -1", "--drop-blocks"),
        ("distill PKG -o OUT --epochs 0", "--epochs"),
        ("distill PKG -o OUT --layers first,last", "--layers"),
        ("distill PKG -o OUT --layers 0,3 --keep-layers 2", "--layers"),
        ("distill PKG -o OUT --keep-layers 0", "--keep-layers"),
        ("distill PKG -o OUT --target diagnosis", "--target"),
        ("evaluate PKG --target diagnosis", "--target"),
        ("bench PKG --seconds nan", "--seconds"),
        ("bench PKG --threads 100000", "--threads"),
        ("predict PKG -i rows.csv -o answers.csv --threads 100000", "--threads"),
        ("predict PKG -i a.csv b.csv c.csv -o answers.csv", "--input"),
        ("bench PKG --rate 100", "--rate"),
        ("bench PKG --p99-ms 20", "--p99-ms"),
        ("bench http://127.0.0.1:9 --threads 2", "--threads"),
        ("bench http://127.0.0.1:9 --profile", "--profile"),
        ("up --config server.toml", "up PKG --config"),
    ],
)
def test_a_wrong_value_is_named_with_its_option(line, option):
    result = CliRunner().invoke(app, line.split())

    assert result.exit_code == 2
    assert option in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "line",
    ["train", "prune", "prune --ratio 7", "distill --temperature -1", "quantize --method qat"],
)
@pytest.mark.parametrize("parent", ["missing", "OUT.training"])
def test_force_with_a_mistake_beside_it_throws_no_training_away(tmp_path, line, parent):
    command, *options = line.split()
    kept = tmp_path / "OUT.training" / "train.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(b"hours of work")
    words = [command, str(tmp_path / parent), "-o", str(tmp_path / "OUT"), *options, "--force"]

    result = CliRunner().invoke(app, words)

    assert result.exit_code != 0
    assert kept.read_bytes() == b"hours of work"


def test_a_json_document_names_its_schema(capsys):
    console.print_json({"passed": True})

    assert json.loads(capsys.readouterr().out) == {"schema": 1, "passed": True}


def test_a_json_document_keeps_a_schema_of_its_own(capsys):
    console.print_json({"schema": 2})

    assert json.loads(capsys.readouterr().out) == {"schema": 2}


def test_a_search_whose_source_is_wrong_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["optimize", "nowhere.py", "-o", "best"])

    assert result.exit_code != 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["quantize", "optimize"])
@pytest.mark.parametrize("place", ["iris", "iris/int8", "other/../iris"])
def test_a_package_is_not_written_over_or_into_what_it_is_made_from(
    iris_package, tmp_path, command, place
):
    package = iris_package()
    (tmp_path / "other").mkdir()

    result = CliRunner().invoke(
        app, [command, str(package.path), "-o", str(tmp_path / place), "--force"]
    )

    assert isinstance(result.exception, PackageError)
    assert str(tmp_path / place) in result.exception.message
    assert all(check.passed for check in verify(package.path))


@pytest.mark.parametrize(
    "command",
    ["quantize", "prune", "distill", "train", "optimize", "evaluate", "verify", "compare"],
)
def test_every_command_that_takes_data_calls_its_targets_by_column(command):
    options = get_command(app).commands[command].params

    named = [option for option in options if "--column" in option.opts]
    assert len(named) == 1
    assert ("--target" in named[0].opts) == (command != "optimize")


@pytest.mark.parametrize("command", ["prune", "optimize"])
def test_a_speed_up_is_asked_for_in_either_spelling(command):
    options = get_command(app).commands[command].params

    assert any({"--speedup", "--speed-up"} <= set(option.opts) for option in options)


def test_a_pattern_without_quotes_is_told_in_a_line_however_many_files_it_names():
    files = [f"{number}.png" for number in range(1000)]

    result = CliRunner().invoke(app, ["predict", "PKG", "-i", *files, "-o", "answers.csv"])

    assert "'1.png' (and 998 more)" in " ".join(result.stderr.split())
    assert "2.png" not in result.stderr


def test_paragraphs_of_a_help_are_broken_by_the_terminal_alone():
    commands = get_command(app).commands

    for command in commands.values():
        for paragraph in (command.help or "").split("\n\n"):
            assert "\n" not in paragraph
    assert "\n\n" in commands["train"].help
