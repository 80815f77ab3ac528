import json
import logging

import pytest

from mlserve_cli.runtime.monitoring import logs


@pytest.fixture
def set_up():
    """Set the log up as a server does, and put it back afterwards."""
    names = (logs.NAME, "uvicorn")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield logs.set_up
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def test_json_lines_hold_level_message_and_extras(set_up, capsys):
    set_up("json")
    logging.getLogger("mlserve.x").warning("%d rows", 3, extra={"model": "m", "path": object})

    line = json.loads(capsys.readouterr().err)

    assert (line["level"], line["message"], line["model"]) == ("warning", "3 rows", "m")


def test_a_traceback_stays_on_the_json_line(set_up, capsys):
    set_up("json")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("mlserve.x").exception("failed")

    (line,) = capsys.readouterr().err.splitlines()

    assert "ValueError: boom" in json.loads(line)["traceback"]


def test_text_lines_begin_with_the_level(set_up, capsys):
    set_up("text")
    logging.getLogger("mlserve.x").info("hello")

    assert capsys.readouterr().err == "INFO: hello\n"


def test_what_a_client_named_adds_no_line_and_does_nothing_to_a_terminal(set_up, capsys):
    set_up("text")
    logging.getLogger("mlserve.x").info(
        "POST %s 404", "/a\nERROR: forged\r\x1b[31m\u2028\x85/infer"
    )

    (line,) = capsys.readouterr().err.splitlines()

    assert line == r"INFO: POST /a\nERROR: forged\r\x1b[31m\u2028\x85/infer 404"


def test_a_traceback_keeps_its_lines_as_text(set_up, capsys):
    set_up("text")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("mlserve.x").exception("failed\n")

    first, *rest = capsys.readouterr().err.splitlines()

    assert first == "ERROR: failed"
    assert rest[-1] == "ValueError: boom"


def test_a_name_that_is_no_unicode_is_logged_as_json_nevertheless(set_up, capsys):
    set_up("json")
    logging.getLogger("mlserve.x").warning("'%s' is damaged", "a\udc80")

    assert json.loads(capsys.readouterr().err)["message"] == "'a\udc80' is damaged"


def test_setting_up_twice_logs_once(set_up, capsys):
    set_up("text")
    set_up("text")
    logging.getLogger("mlserve").info("hello")

    assert capsys.readouterr().err == "INFO: hello\n"


def test_warnings_of_the_web_server_take_the_same_form(set_up, capsys):
    set_up("json")
    logging.getLogger("uvicorn.error").info("Shutting down")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")

    (line,) = capsys.readouterr().err.splitlines()

    assert json.loads(line)["logger"] == "uvicorn.error"
