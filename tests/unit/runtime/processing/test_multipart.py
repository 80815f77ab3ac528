from __future__ import annotations

import random
from typing import Any

import pytest

from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.processing import multipart
from mlserve_cli.runtime.processing.multipart import Part

TYPE = "multipart/form-data; boundary=XX"


def form(*parts: str, end: str = "--XX--\r\n") -> bytes:
    return "".join(f"--XX\r\n{part}\r\n" for part in parts).encode("utf-8") + end.encode()


def field(name: str, value: str = "1", more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}'


class FakeReader:
    def rows(self, body: bytes, content_type: str) -> list[Any]:
        return [(body, content_type)]

    def form(self, fields: Any) -> list[Any]:
        return [fields]


def read(*parts: str) -> list[Any]:
    return multipart.rows(FakeReader(), form(*parts), TYPE)  # type: ignore[arg-type]


def test_parts_keep_their_bytes_names_and_types() -> None:
    file = (
        'content-disposition: form-data; name="häß"; filename="ü \\"1\\".png"\r\n'
        "Content-Type: image/png\r\n\r\nab\r\n\r\n--X"
    )
    assert multipart.parse(b"said before\r\n" + form(file, field("b", "")), TYPE) == [
        Part("häß", b"ab\r\n\r\n--X", 'ü "1".png', "image/png"),
        Part("b", b""),
    ]


def test_any_bytes_pass_through_a_form() -> None:
    content = random.Random(1).randbytes(100_000)
    head = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
    (part,) = multipart.parse(head + content + b"\r\n--XX--", TYPE)
    assert part.content == content


def test_files_are_payloads_each() -> None:
    found = read(
        field("a", "1,2", '; filename="a.csv"'),
        'Content-Disposition: form-data; name="b"\r\nContent-Type: image/png\r\n\r\nPNG',
        field("c", "{}", '; filename="c.bin"'),
    )
    assert found == [(b"1,2", "text/csv"), (b"PNG", "image/png"), (b"{}", "")]


@pytest.mark.parametrize("name", ["data", "body"])
def test_a_lone_field_called_data_is_the_payload(name: str) -> None:
    assert read(field(name, "[1]")) == [(b"[1]", "")]
    assert read(field("other", "[1]")) == [{"other": "[1]"}]


def test_fields_make_up_a_row_with_the_bytes_of_files() -> None:
    text = 'Content-Disposition: form-data; name="t"\r\nContent-Type: text/plain\r\n\r\nx'
    row = read(field("a", "1"), text, field("f", "raw", '; filename="f"'))
    assert row == [{"a": "1", "t": "x", "f": b"raw"}]
    with pytest.raises(InvalidRequest, match="a file 'f' beside fields"):
        multipart.only_text(row[0])


def test_a_file_that_was_not_chosen_is_left_out() -> None:
    assert read(field("f", "", '; filename=""'), field("a")) == [{"a": "1"}]


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (form(field("a")), "multipart/form-data", "no boundary"),
        (form(field("a")), "multipart/form-data; boundary=" + "x" * 71, "no boundary"),
        (form(field("a"), end=""), TYPE, "ends before its last boundary"),
        (b"", TYPE, "ends before its last boundary"),
        (b"nothing of the kind", TYPE, "ends before its last boundary"),
        (form(), TYPE, "the form is empty"),
        (form(field("a", "", '; filename=""')), TYPE, "the form is empty"),
        (form("nothing"), TYPE, "no end of its headers"),
        (form("A: " + "x" * 9000 + "\r\n\r\n"), TYPE, "no end of its headers within 8192 bytes"),
        (form("Content-Type: text/plain\r\n\r\n1"), TYPE, "part 0 of the form has no name"),
        (form(field("")), TYPE, "part 0 of the form has no name"),
        (
            form("Content-Transfer-Encoding: base64\r\n" + field("a")),
            TYPE,
            "'a' of the form is encoded as 'base64'",
        ),
        (form(field("a"), field("a")), TYPE, "two fields 'a'"),
    ],
)
def test_what_is_no_form_says_why(body: bytes, content_type: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        multipart.rows(FakeReader(), body, content_type)  # type: ignore[arg-type]


def test_there_are_only_so_many_parts() -> None:
    with pytest.raises(InvalidRequest, match="more than 1000 parts"):
        read(*[field("a", "", '; filename="f"')] * 1001)
    with pytest.raises(InvalidRequest, match="no end of its headers"):
        multipart.parse(b"\r\n--XX" * 2_000_000, TYPE)


def test_text_that_is_no_unicode_is_refused() -> None:
    body = form(field("a"), field("b")).replace(b"\r\n\r\n1", b"\r\n\r\n\xff", 1)
    with pytest.raises(InvalidRequest, match="the field 'a' of the form is not UTF-8"):
        multipart.rows(FakeReader(), body, TYPE)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"user": 7, "instances": [[1]]}', "7"),
        (b'{"instances": [{"user": ["ann"]}]}', "ann"),
        (b'[{"user": "ann"}, {"user": "bob"}]', "ann"),
        (b'{"inputs": {"user": "ann"}}', "ann"),
        (b'{"instances": []}', None),
        (b'{"user": {"id": 1}}', None),
        (b"[[[1]]]", None),
        (b"{", None),
        (b"", None),
    ],
)
def test_a_value_is_looked_up_wherever_a_row_may_stand(body: bytes, found: str | None) -> None:
    assert multipart.lookup(body, "application/json", "user") == found


def test_a_value_is_looked_up_in_a_form() -> None:
    body = form(field("a", "2"), field("user", "ann"))
    assert multipart.lookup(body, TYPE, "user") == "ann"
    assert multipart.lookup(body, TYPE, "other") is None
    assert multipart.lookup(body, "multipart/form-data", "user") is None
