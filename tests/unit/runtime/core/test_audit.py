"""The audit log is only appended to, and a crash costs at most the line that it cut short."""

import json
import logging
import os
import stat

import pytest

from mlserve_cli.runtime.audit import AuditLog, Entry, now


def entry(**fields):
    facts = {"time": now(), "who": "ci", "action": "promote", "model": "iris", "outcome": "done"}
    return Entry(**(facts | fields))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "audit.jsonl"


def test_each_entry_is_one_line_with_who_what_and_when(path):
    log = AuditLog(path)

    assert log.append(entry(version="2", before={"rule": None}, after={"rule": {"default": "2"}}))
    assert log.append(entry(action="rollback"))

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["action"] for line in lines] == ["promote", "rollback"]
    assert lines[0]["after"] == {"rule": {"default": "2"}}
    assert lines[0]["who"] == "ci"
    assert lines[0]["time"].endswith("Z")
    assert log.entries(1) == lines[1:]


def test_only_its_owner_may_read_the_file(path):
    AuditLog(path).append(entry())

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("line", [b"no JSON", b'{"who": "\xff"}', b"[" * 10_000, b"3"])
def test_a_line_that_is_no_entry_hides_none_of_the_others(path, line):
    log = AuditLog(path)
    log.append(entry(action="load"))
    with path.open("ab") as file:
        file.write(line + b"\n")

    assert [found["action"] for found in log.entries(10)] == ["load"]


def test_an_entry_that_found_no_room_is_said_to_be_missing(path, monkeypatch, caplog):
    log = AuditLog(path)
    log.append(entry(action="load"))
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, line: write(file, line[:10]))
        assert not log.append(entry(action="unload"))

    assert "No space left on device" in caplog.text
    assert log.append(entry(action="promote"))
    assert [found["action"] for found in log.entries(10)] == ["load", "promote"]


def test_half_a_line_that_a_crash_left_does_not_swallow_the_next(path):
    log = AuditLog(path)
    log.append(entry(action="load"))
    with path.open("ab") as file:
        file.write(b'{"time": "2026-')

    log.append(entry(action="unload"))

    assert [found["action"] for found in log.entries(10)] == ["load", "unload"]


def test_a_text_with_a_line_break_stays_one_entry(path):
    log = AuditLog(path)
    log.append(entry(model="a\nb"))

    assert len(path.read_text().splitlines()) == 1
    assert log.entries(5)[0]["model"] == "a\nb"


def test_a_folder_that_takes_no_writes_is_told_and_raises_nothing(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")

    with caplog.at_level(logging.WARNING):
        assert not AuditLog(blocked / "audit.jsonl").append(entry())

    assert "cannot be written" in caplog.text


def test_without_a_path_it_goes_to_the_log_alone(caplog):
    with caplog.at_level(logging.INFO, logger="mlserve.audit"):
        assert not AuditLog(None).append(entry(who="anna", version="2"))

    assert "anna: promote iris 2: done" in caplog.text


def test_the_log_names_the_model_alone_where_all_versions_are_meant(caplog):
    entry = Entry(time=now(), who="anna", action="unload", model="iris", outcome="done")
    with caplog.at_level(logging.INFO, logger="mlserve.audit"):
        AuditLog(None).append(entry)

    assert caplog.messages == ["anna: unload iris: done"]
    assert AuditLog(None).entries(5) == []
