from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlserve_cli.errors import PackageError
from mlserve_cli.pipeline import serving


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200
)
@given(content=st.binary(min_size=1, max_size=200))
@example(content=b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")  # a length of 2^64 - 1
@example(content=b"\x08" + b"\xff" * 20)
def test_any_bytes_are_recognized_or_refused_with_a_sentence(tmp_path, content):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)

    assert _outcome(file) in {"onnx", f"'{file}' is not a whole ONNX file."}


def _outcome(file):
    try:
        return serving.recognize(file)
    except PackageError as error:
        return error.message
