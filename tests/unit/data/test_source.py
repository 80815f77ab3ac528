import contextlib
import importlib

import pytest

from mlserve_cli.data.source import READERS, read
from mlserve_cli.errors import DataError


@pytest.mark.parametrize("target", READERS.values())
def test_every_reader_of_the_table_is_there(target):
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_a_missing_file_is_an_error_at_once(make_manifest):
    with pytest.raises(DataError, match=r"'nowhere\.csv' does not exist"):
        read("nowhere.csv", make_manifest(), None)


def test_an_unknown_suffix_is_an_error_that_lists_what_can_be_read(write, make_manifest):
    with pytest.raises(DataError, match=r"of no kind that can be read \('\.xlsx'\)") as error:
        read(str(write("a.xlsx", "")), make_manifest(), None)
    assert ".csv" in error.value.hint


def test_a_python_file_without_a_function_says_how_to_name_it(write, make_manifest):
    with pytest.raises(DataError) as error:
        read(str(write("a.py", "")), make_manifest(), None)
    assert error.value.hint.endswith("file.py:function")


def test_only_what_is_asked_for_is_read(tmp_path, make_manifest):
    """A file that never ends still gives its first batch."""
    import os
    import threading

    from mlserve_cli.runtime import processing

    manifest = make_manifest()
    pipe = tmp_path / "endless.csv"
    os.mkfifo(pipe)
    enough = threading.Event()

    def feed():
        # Who has read enough may close while the rest is still being written.
        with contextlib.suppress(BrokenPipeError), pipe.open("w") as file:
            file.write("a,b\n")
            for _ in range(5000):  # more than is buffered on the way
                file.write("1,2\n")
            file.flush()
            enough.wait(30)

    thread = threading.Thread(target=feed)
    thread.start()
    batches = read(str(pipe), manifest, processing.build(manifest, tmp_path), batch=3)
    try:
        assert next(batches).size == 3
    finally:
        enough.set()
        batches.close()
        thread.join(30)
