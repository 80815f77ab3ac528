import asyncio
import logging
import stat

from mlserve_cli.runtime.feedback.pairs_file import FILE, PairsFile


def append(file, *lines):
    return asyncio.run(file.append([line.encode() for line in lines]))


def test_lines_are_appended_and_only_the_owner_may_read_them(tmp_path):
    file = PairsFile(tmp_path / "state", 1000)

    assert append(file, "one", "two")
    assert append(file, "three")
    assert file.path.read_text() == "one\ntwo\nthree\n"
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_the_file_and_the_one_before_it_never_take_more_than_they_may(tmp_path):
    file = PairsFile(tmp_path, 100)
    lines = [f"line {number:03}" for number in range(40)]  # nine bytes each with their end
    for start in range(0, 40, 8):
        assert append(file, *lines[start : start + 8])
        sizes = [path.stat().st_size for path in tmp_path.iterdir()]
        assert len(sizes) <= 2
        assert max(sizes) <= 50

    kept = (tmp_path / (FILE + ".1")).read_text() + (tmp_path / FILE).read_text()
    assert kept.split() == " ".join(lines[-len(kept.splitlines()) :]).split()
    assert len(kept.splitlines()) > 5


def test_half_a_line_of_a_crash_swallows_nothing(tmp_path):
    (tmp_path / FILE).write_bytes(b'{"half')

    append(PairsFile(tmp_path, 1000), "whole")

    assert (tmp_path / FILE).read_text().splitlines() == ['{"half', "whole"]


def test_a_disk_that_takes_nothing_is_said_and_raises_nothing(tmp_path, caplog):
    (tmp_path / "state").write_text("a file where the folder should be")

    with caplog.at_level(logging.WARNING, logger="mlserve"):
        assert append(PairsFile(tmp_path / "state", 1000), "line") is False
    assert "cannot be written" in caplog.text
