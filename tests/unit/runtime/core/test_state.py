"""What is kept across a restart: written whole, and put aside where it is damaged."""

import json
import logging

import pytest

from mlserve_cli.runtime.state import State, StateFile, forget, remember
from mlserve_cli.runtime.traffic import TrafficRule


@pytest.fixture
def file(tmp_path):
    return StateFile(tmp_path / "state" / "state.json")


def test_what_is_written_is_read_again(file):
    rule = TrafficRule(default="1", labels={"stable": "1"}, weights={"2": 12.5})
    state = State(
        rules={"iris": rule},
        earlier={"iris": ["0", "1"]},
        loaded={"iris": ["2"]},
        unloaded={"price": ["7"]},
        instances={"iris": {"2": 3}},
    )

    assert file.write(state.to_json())

    assert file.read() == state


def test_no_file_is_an_empty_state(file):
    assert file.read() == State()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema": 1, "rules": 3}',
        b'{"schema": 99}',
        b"\xff\xfe",
        b'{"schema": 1, "loaded": {"\xff": []}}',
        b"[" * 10_000,
    ],
)
def test_a_damaged_file_is_put_aside_with_a_warning(file, text, caplog):
    file.path.parent.mkdir()
    file.path.write_bytes(text)

    with caplog.at_level(logging.WARNING):
        assert file.read() == State()

    assert not file.path.exists()
    assert (file.path.parent / "state.json.aside").read_bytes() == text
    assert "is damaged" in caplog.text


def test_a_new_text_replaces_the_old_one_and_leaves_nothing_beside_it(file):
    file.write(State(loaded={"iris": ["1"]}).to_json())
    file.write(State().to_json())

    assert json.loads(file.path.read_bytes())["loaded"] == {}
    assert [path.name for path in file.path.parent.iterdir()] == ["state.json"]


def test_a_folder_that_takes_no_writes_is_told_and_raises_nothing(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")

    with caplog.at_level(logging.WARNING):
        assert not StateFile(blocked / "state.json").write(b"{}")

    assert "cannot be written" in caplog.text


def test_without_a_path_nothing_is_kept():
    file = StateFile(None)

    assert not file.write(b"{}")
    assert file.read() == State()


def test_a_version_is_remembered_once_and_its_model_goes_with_the_last():
    where = {}
    remember(where, "iris", "1")
    remember(where, "iris", "1")
    assert where == {"iris": ["1"]}

    forget(where, "iris", "9")
    forget(where, "iris", "1")
    assert where == {}


def test_versions_that_a_rule_names_are_wanted_unless_they_were_unloaded():
    state = State(
        rules={"iris": TrafficRule(default="1", weights={"2": 5.0}, labels={"old": "0"})},
        loaded={"iris": ["2"], "price": ["3"]},
        unloaded={"iris": ["0"]},
    )

    assert sorted(state.wanted()) == [("iris", "1"), ("iris", "2"), ("price", "3")]
    assert state.unwanted() == [("iris", "0")]
