"""What commands print."""

import json

from mlserve_cli.cli import console


def test_numbers_that_json_has_no_word_for_are_null(capsys):
    console.print_json({"max_drop": float("inf"), "speed": [{"low": float("nan"), "high": 2.0}]})
    printed = capsys.readouterr().out
    document = json.loads(printed, parse_constant=lambda word: f"no JSON: {word}")
    assert document == {"schema": 1, "max_drop": None, "speed": [{"low": None, "high": 2.0}]}
