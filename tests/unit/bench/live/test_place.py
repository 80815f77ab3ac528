import pytest

from mlserve_cli.bench.live.place import parse
from mlserve_cli.errors import MlserveError


@pytest.mark.parametrize("key", ["secret\n", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_telling_it(key):
    with pytest.raises(MlserveError, match="the API key holds what no header can") as error:
        parse("http://127.0.0.1:8000", key=key)
    assert key.strip() not in error.value.message


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "http://ann:pa%20ss@127.0.0.1:8000/v2/models/m@2",
            "http://…@127.0.0.1:8000/v2/models/m@2",
        ),
        ("grpc://127.0.0.1:8001", "grpc://127.0.0.1:8001"),
    ],
)
def test_a_password_is_sent_and_never_shown(url, shown):
    place = parse(url)
    assert place.url == shown
    assert "pa%20ss" not in repr(place)
    expected = {"Authorization": "Basic YW5uOnBhIHNz"} if "ann" in url else {}
    assert place.headers.items() >= expected.items()
    if not expected:
        assert "Authorization" not in place.headers


@pytest.mark.parametrize(
    "url", ["http://ann:secret@h:port", "http://ann:se/cret@host", "https://ann:secret@", "http://[ann:secret@h"]
)  # fmt: skip
def test_an_url_that_is_none_is_refused_without_its_password(url):
    with pytest.raises(MlserveError, match="is no server's URL") as error:
        parse(url)
    assert "cret" not in error.value.message
    assert "ann" not in error.value.message


def test_secrets_of_urls_are_taken_out_of_every_error():
    error = MlserveError(
        "GET https://ann:secret@h/a?X-Amz-Signature=secret&x=1&X-Goog-Signature=secret failed.",
        hint="s3://key:secret@bucket/a@2x, http://h/?sig=secret 'a@b' and https://h/docs?page=2",
    )
    assert (
        error.message
        == str(error)
        == "GET https://…@h/a?X-Amz-Signature=…&x=1&X-Goog-Signature=… failed."
    )
    assert error.hint == ("s3://…@bucket/a@2x, http://h/?sig=… 'a@b' and https://h/docs?page=2")
