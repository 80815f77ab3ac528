from pathlib import Path

import pytest

from mlserve_cli.runtime import versions
from mlserve_cli.runtime.errors import SettingsError
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.repository import Found


def found(*numbers, name="m"):
    return [
        Found(Path(number), Manifest(name=name, version=number, variant="", inputs=(), outputs=()))
        for number in numbers
    ]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({}, ["1", "2", "3"]),
        ({"m": "all"}, ["1", "2", "3"]),
        ({"m": 1}, ["3"]),
        ({"m": 2}, ["2", "3"]),
        ({"m": 9}, ["1", "2", "3"]),
        ({"m": ["1", "3", "7"]}, ["1", "3"]),
        ({"*": 1}, ["3"]),
        ({"*": 1, "m": "all"}, ["1", "2", "3"]),
        ({"other": 1}, ["1", "2", "3"]),
    ],
)
def test_a_policy_chooses_versions(policies, expected):
    chosen = versions.choose(policies, found("1", "2", "3"))

    assert [each.manifest.version for each in chosen] == expected


def test_of_no_versions_none_is_chosen():
    assert versions.choose({"*": 1}, []) == []


@pytest.mark.parametrize("policy", ["newest", 0, -1, [], ""])
def test_a_policy_that_is_none_is_a_sentence(policy):
    versions.check({"m": 1, "*": "all"})
    with pytest.raises(SettingsError, match=r"versions of 'm' is .*'all', a number"):
        versions.check({"m": policy})
