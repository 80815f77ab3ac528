"""A job that ended anywhere goes on, and the result is the same as if it never had."""

import json
import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.package.progress import Silent
from mlserve_cli.predict.claim import Claim
from mlserve_cli.predict.local_place import LocalPlace
from mlserve_cli.predict.location import file_system
from mlserve_cli.predict.prediction import Choices, predict
from mlserve_cli.predict.remote_place import RemotePlace
from tests.row_files import write

pq = pytest.importorskip("pyarrow.parquet")

HEADER = "sl,sw,pl,pw\n"
BAD = {17, 60, 61}
TARGETS = ["out.csv", "out.jsonl", "out.npz", "out.parquet", "out.arrow", "out/", "out.csv/"]


class Killed(BaseException):
    """What ends a process at once, as far as one process can tell."""


@pytest.fixture
def rows(iris, tmp_path):
    """The flowers as CSV, with three rows that are none."""
    lines = [",".join(map(str, row)) for row in iris[0].tolist()]
    for number in BAD:
        lines[number - 1] = "1,2,three,4"
    path = tmp_path / "rows.csv"
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


def content(out):
    """All that a job left, by names: the result and the rejects."""
    beside = out.parent / f"{out.name}.rejects.jsonl"
    files = {"rejects": beside.read_bytes()} if beside.exists() else {}
    if out.is_file():
        return files | {"": out.read_bytes()}
    held = {path.name: path.read_bytes() for path in out.iterdir()}
    manifest = json.loads(held.pop("_manifest.json"))
    assert manifest["done"]
    for part in manifest["parts"]:
        assert len(held[part["file"]]) == part["size"]
    return files | held


def go(package, source, out, *, folder, **choices):
    target = f"{out}/" if folder else str(out)
    return predict(
        package,
        [str(source)],
        target,
        choices=Choices(batch=4, part=13, **choices),
        progress=Silent(),
    )


@pytest.mark.parametrize("target", TARGETS)
def test_killed_at_every_write_it_goes_on_to_the_same_bytes(
    iris_package, rows, tmp_path, monkeypatch, target
):
    package = iris_package()
    folder = target.endswith("/")
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, out = tmp_path / "whole" / target, tmp_path / "killed" / target
    report = go(package, rows, whole, folder=folder)
    assert (report.rows, report.rejected, report.parts) == (147, 3, 10)
    expected = content(whole)
    assert [json.loads(line)["row"] for line in expected["rejects"].splitlines()] == sorted(BAD)

    calls = 0
    publish, deliver, draft = LocalPlace.publish, LocalPlace.deliver, LocalPlace.draft

    def killing(method):
        def counted(self, *given):
            nonlocal calls
            calls += 1
            if calls == deadly:
                raise Killed
            answer = method(self, *given)
            calls += 1
            if calls == deadly:
                raise Killed
            return answer

        return counted

    monkeypatch.setattr(LocalPlace, "abandon", lambda self: None)  # the dead sweep up nothing
    kills, deadly = 0, 1
    while True:
        for name, method in (("publish", publish), ("deliver", deliver), ("draft", draft)):
            monkeypatch.setattr(LocalPlace, name, killing(method))
        calls = 0
        try:
            go(package, rows, out, folder=folder, resume=True)
        except Killed:
            kills += 1
            deadly += 3  # before and after every rename, and always a little further
            continue
        break
    assert kills > 5
    assert content(out) == expected
    assert not (out.parent / f".{out.name}.parts").exists()


def test_what_was_interrupted_is_named_and_goes_on_only_if_asked(
    iris_package, rows, tmp_path, monkeypatch
):
    package, out = iris_package(), tmp_path / "out.csv"
    interrupt_after(monkeypatch, parts=3)
    with pytest.raises(KeyboardInterrupt):
        go(package, rows, out, folder=False)
    monkeypatch.undo()
    assert not out.exists()
    with pytest.raises(DataError, match=r"left 3 whole parts of '.*out.csv', 47 rows") as error:
        go(package, rows, out, folder=False)
    assert "--resume" in error.value.hint
    report = go(package, rows, out, folder=False, resume=True)
    assert (report.resumed, report.rows) == (47, 147)
    again = go(package, rows, out, folder=False, resume=True)  # nobody heard that it was over
    assert (again.rows, again.resumed, again.rejected) == (147, 147, 3)


@pytest.mark.parametrize("target", ["out.csv", "out"])
@pytest.mark.parametrize("base", ["", "memory://over/"])
def test_a_job_that_is_over_is_not_taken_for_one_with_other_options(
    iris_package, rows, tmp_path, base, target
):
    def again(package, **choices):
        out = f"{base or f'{tmp_path}/'}{target}"
        return predict(
            package, [str(rows)], out, choices=Choices(resume=True, **choices), progress=Silent()
        )

    package = iris_package()
    try:
        assert again(package, keep=("sl",)).resumed == 0
        assert again(package, keep=("sl",)).resumed == 147
        with pytest.raises(DataError, match="began with another --keep") as error:
            again(package, keep=("sw",))
        assert "--force" in error.value.hint
        with pytest.raises(DataError, match="began with --batch 64, and now it is 3"):
            again(package, keep=("sl",), batch=3)
        other = iris_package(tmp_path / "other", description="another")
        with pytest.raises(DataError, match="began with another package"):
            again(other, keep=("sl",))
    finally:
        if base:
            file_system(base)[0].rm("/over", recursive=True)


def interrupt_after(monkeypatch, *, parts):
    """Ctrl-C when so many parts are written."""
    from mlserve_cli.predict.run import Run

    write = Run._write_part

    def interrupted(self, *given):
        if len(self._job.parts) == parts:
            raise KeyboardInterrupt
        return write(self, *given)

    monkeypatch.setattr(Run, "_write_part", interrupted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("input", r"rows.csv' was changed since the job in '.*' began"),
        ("other input", "began with other inputs"),
        ("package", "began with another package: iris 1, digest sha256:"),
        ("keep", "began with another --keep"),
        ("batch", "began with --batch 4, and now it is 8"),
        ("part", "began with --part-rows 13, and now it is 5"),
    ],
)
def test_a_job_does_not_go_on_as_another(
    iris_package, rows, tmp_path, monkeypatch, change, message
):
    package, out = iris_package(), tmp_path / "out.csv"
    interrupt_after(monkeypatch, parts=2)
    with pytest.raises(KeyboardInterrupt):
        go(package, rows, out, folder=False)
    monkeypatch.undo()
    source = rows
    choices = {"batch": 4, "part": 13, "resume": True}
    if change == "input":
        rows.write_text(rows.read_text() + "1,2,3,4\n")
    elif change == "other input":
        source = tmp_path / "other.csv"
        source.write_text(rows.read_text())
    elif change == "package":
        package = iris_package(tmp_path / "other", description="another")
    elif change == "keep":
        choices["keep"] = ("sl",)
    else:
        choices[change] = {"batch": 8, "part": 5}[change]
    with pytest.raises(DataError, match=message):
        predict(package, [str(source)], str(out), choices=Choices(**choices), progress=Silent())


def test_a_part_that_was_damaged_is_written_again(iris_package, rows, tmp_path, monkeypatch):
    package = iris_package()
    go(package, rows, tmp_path / "whole", folder=True)
    interrupt_after(monkeypatch, parts=4)
    with pytest.raises(KeyboardInterrupt):
        go(package, rows, tmp_path / "out", folder=True)
    monkeypatch.undo()
    part = tmp_path / "out" / "part-00002.parquet"
    part.write_bytes(part.read_bytes()[:-1])
    report = go(package, rows, tmp_path / "out", folder=True, resume=True)
    assert report.resumed == 31  # two parts of 16 rows, less one that is rejected
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_two_processes_do_not_write_one_output(iris_package, rows, tmp_path):
    (tmp_path / "out").mkdir()
    first = LocalPlace(str(tmp_path / "out"), folder=True)
    first.begin()
    with pytest.raises(DataError, match="another process writes"):
        go(iris_package(), rows, tmp_path / "out", folder=True)
    first.close()
    assert go(iris_package(tmp_path / "p"), rows, tmp_path / "out", folder=True).rows == 147


def test_a_folder_of_parts_is_one_table_for_its_readers(iris_package, rows, tmp_path):
    go(iris_package(), rows, tmp_path / "out", folder=True, keep=("sl",))
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["sl", "scores"]
    assert table.num_rows == 147


def test_a_full_disk_is_a_sentence_and_the_parts_stay(iris_package, rows, tmp_path, monkeypatch):
    import errno

    from mlserve_cli.predict.run import Run

    write = Run._write_part

    def full(self, name, *given):
        if name.startswith("part-00003"):
            draft = self._place.draft  # the part before may still be on its way
            self._place.draft = lambda each: tmp_path / "full" if each == name else draft(each)
        return write(self, name, *given)

    (tmp_path / "full").symlink_to("/dev/full")
    monkeypatch.setattr(Run, "_write_part", full)
    package, out = iris_package(), tmp_path / "out.csv"
    with pytest.raises(DataError, match=r"out.csv' cannot be written: No space left") as error:
        go(package, rows, out, folder=False)
    assert "--resume" in error.value.hint
    assert error.value.__cause__.errno == errno.ENOSPC
    monkeypatch.undo()
    assert go(package, rows, out, folder=False, resume=True).resumed == 47


def test_a_pipe_or_a_device_is_never_replaced_by_a_file(iris_package, rows, tmp_path):
    pipe = tmp_path / "out.csv"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="is a device or a pipe"):
        go(iris_package(), rows, pipe, folder=False, overwrite=True)
    assert pipe.is_fifo()


def test_a_part_that_cannot_be_put_in_its_place_is_not_counted(
    iris_package, rows, tmp_path, monkeypatch
):
    publish = LocalPlace.publish

    def failing(self, name):
        if name == "part-00003.csv":
            raise DataError("the disk is gone.")
        publish(self, name)

    monkeypatch.setattr(LocalPlace, "publish", failing)
    package, out = iris_package(), tmp_path / "out.csv"
    with pytest.raises(DataError, match="the disk is gone"):
        go(package, rows, out, folder=False)
    manifest = json.loads((tmp_path / ".out.csv.parts" / "_manifest.json").read_bytes())
    assert [part["file"] for part in manifest["parts"]] == [
        f"part-0000{number}.csv" for number in range(3)
    ]
    monkeypatch.undo()
    assert go(package, rows, out, folder=False, resume=True).resumed == 47


@pytest.mark.parametrize("target", ["memory://jobs/out.parquet", "memory://jobs/out"])
def test_urls_are_read_and_written_and_gone_on_with(
    iris_package, rows, tmp_path, monkeypatch, target
):
    package = iris_package()
    system, _ = file_system("memory://jobs")
    system.pipe_file("/jobs/in/rows.csv", rows.read_bytes())
    choices = {"batch": 4, "part": 13}

    def go(**more):
        return predict(
            package,
            ["memory://jobs/in"],
            target,
            choices=Choices(**choices, **more),
            progress=Silent(),
        )

    try:
        go()
        path = target.removeprefix("memory:/")
        first = {name: system.cat_file(name) for name in system.find(path)}
        rejects = system.cat_file(f"{path}.rejects.jsonl")
        assert len(rejects.splitlines()) == 3
        assert not system.exists("/jobs/.out.parquet.parts")
        system.rm(path, recursive=True)
        interrupt_after(monkeypatch, parts=5)
        with pytest.raises(KeyboardInterrupt):
            go()
        monkeypatch.undo()
        assert go(resume=True).resumed == 77
        again = {name: system.cat_file(name) for name in system.find(path)}
        assert again.keys() == first.keys()
        assert all(
            again[name] == first[name] for name in first if not name.endswith("_manifest.json")
        )
        assert system.cat_file(f"{path}.rejects.jsonl") == rejects
    finally:
        system.rm("/jobs", recursive=True)


@pytest.fixture
def remote(rows):
    """A store in memory with the rows; its file system."""
    system, _ = file_system("memory://jobs")
    system.pipe_file("/jobs/in/rows.csv", rows.read_bytes())
    yield system
    system.rm("/jobs", recursive=True)


def go_remote(package, target, **choices):
    return predict(
        package,
        ["memory://jobs/in"],
        f"memory://jobs/{target}",
        choices=Choices(batch=4, part=13, **choices),
        progress=Silent(),
    )


@pytest.mark.parametrize("target", ["out.csv", "out"])
@pytest.mark.parametrize("more", [{}, {"resume": True}])
def test_two_processes_do_not_write_one_url(iris_package, remote, target, more):
    first = RemotePlace(f"memory://jobs/{target}", folder=target == "out")
    first.begin()
    package = iris_package()
    with pytest.raises(DataError, match=rf"process {os.getpid()} on .* writes 'memory://") as error:
        go_remote(package, target, **more)
    assert "if it is gone, --resume goes on" in error.value.hint
    first.close()
    assert go_remote(package, target, **more).rows == 147
    assert not [name for name in remote.find("/jobs") if "claim" in name]


def test_the_claim_of_a_process_that_is_gone_or_elsewhere_is_taken_over(
    iris_package, remote, monkeypatch
):
    package = iris_package()
    interrupt_after(monkeypatch, parts=3)
    with pytest.raises(KeyboardInterrupt):
        go_remote(package, "out.csv")
    monkeypatch.undo()
    path = "/jobs/.out.csv.parts/_claim.json"
    assert not remote.exists(path)  # who can still tidy up does
    elsewhere = Claim(id="1", host="elsewhere", pid=1, since="yesterday")
    remote.pipe_file(path, elsewhere.to_json())
    with pytest.raises(DataError, match=r"process 1 on elsewhere writes .* since yesterday"):
        go_remote(package, "out.csv")
    assert go_remote(package, "out.csv", resume=True).resumed == 47
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        dead.wait()
    gone = msgspec.structs.replace(Claim.mine(), id="2", pid=dead.pid)
    remote.pipe_file("/jobs/.new.csv.parts/_claim.json", gone.to_json())
    assert go_remote(package, "new.csv").rows == 147
    remote.pipe_file("/jobs/.other.csv.parts/_claim.json", Claim.mine().to_json())
    assert go_remote(package, "other.csv", overwrite=True).rows == 147


def test_who_was_taken_over_from_ends_before_its_next_part(iris_package, remote, monkeypatch):
    from mlserve_cli.predict.run import Run

    write = Run._write_part
    other = Claim(id="1", host="elsewhere", pid=1, since="now")

    def robbed(self, *given):
        if len(self._job.parts) == 3:
            remote.pipe_file("/jobs/out/_claim.json", other.to_json())
        return write(self, *given)

    monkeypatch.setattr(Run, "_write_part", robbed)
    with pytest.raises(DataError, match="process 1 on elsewhere writes"):
        go_remote(iris_package(), "out")
    assert len(remote.glob("/jobs/out/part-*")) <= 3
    assert remote.cat_file("/jobs/out/_claim.json") == other.to_json()


def test_who_was_taken_over_from_before_its_first_part_leaves_the_others_files(
    iris_package, remote, monkeypatch
):
    """Two that begin at once: the one that ends must not take away what the other has written."""
    from mlserve_cli.predict.run import Run

    write = Run._write_part
    other = Claim(id="1", host="elsewhere", pid=1, since="now")
    theirs = {"_claim.json": other.to_json(), "_manifest.json": b"{}", "part-00000.parquet": b"1"}

    def robbed(self, *given):
        if not self._job.parts:
            for name, content in theirs.items():
                remote.pipe_file(f"/jobs/out/{name}", content)
        return write(self, *given)

    monkeypatch.setattr(Run, "_write_part", robbed)
    with pytest.raises(DataError, match="process 1 on elsewhere writes"):
        go_remote(iris_package(), "out")
    assert {name: remote.cat_file(f"/jobs/out/{name}") for name in theirs} == theirs


def test_the_claim_of_an_earlier_process_with_the_same_number_is_taken_over(iris_package, remote):
    """A container that is started again has the name of the one before, and its numbers."""
    before = msgspec.structs.replace(Claim.mine(), id="1", started=1)
    remote.pipe_file("/jobs/.out.csv.parts/_claim.json", before.to_json())
    assert go_remote(iris_package(), "out.csv").rows == 147


def test_the_password_of_a_url_stands_in_no_file_and_no_message(iris_package, remote, rows):
    remote.pipe_file("/ann:secret@jobs/rows.csv", rows.read_bytes())
    said = []

    class Told(Silent):
        def say(self, text):
            said.append(text)

    def go(source, target, **choices):
        return predict(
            package, [f"memory://ann:secret@jobs/{source}"], f"memory://ann:secret@jobs/{target}",
            choices=Choices(**choices), progress=Told(),
        )  # fmt: skip

    package = iris_package()
    report = go("rows.csv", "out")
    assert report.rejects == "memory://…@jobs/out.rejects.jsonl"
    files = [
        remote.cat_file(name) for name in remote.find("/ann:secret@jobs") if "rows" not in name
    ]
    assert len(files) == 3
    assert all(b"secret" not in content for content in files)
    assert (
        "memory://…@jobs/rows.csv"
        in remote.cat_file("/ann:secret@jobs/out/_manifest.json").decode()
    )
    go("rows.csv", "out.csv")
    assert go("rows.csv", "out.csv", resume=True).rejected == 3
    assert said
    assert "secret" not in "".join(said)
    for source, target in (("none.csv", "o.csv"), ("rows.csv", "out"), ("rows.csv", "o.xyz")):
        with pytest.raises(DataError) as error:
            go(source, target)
        assert "secret" not in f"{error.value}{error.value.hint}"
    remote.rm("/ann:secret@jobs", recursive=True)


def test_a_packed_file_that_is_damaged_before_where_a_job_goes_on_is_a_sentence(
    iris_package, tmp_path, monkeypatch
):
    package, source = iris_package(), tmp_path / "rows.npz"
    many = np.random.default_rng(0).integers(0, 99, (9000, 4)).astype(np.float32) / 8
    np.savez_compressed(source, x=many)

    def go(**choices):
        wanted = Choices(batch=50, part=1000, **choices)
        return predict(
            package, [str(source)], f"{tmp_path}/out.csv", choices=wanted, progress=Silent()
        )

    interrupt_after(monkeypatch, parts=7)
    with pytest.raises(KeyboardInterrupt):
        go()
    monkeypatch.undo()
    content, before = source.read_bytes(), source.stat()
    place, other = 5000, bytes(range(256)) * 8
    source.write_bytes(content[:place] + other + content[place + len(other) :])
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))  # a disk that rots tells nobody
    with pytest.raises(DataError, match=r"rows.npz' is no whole .npz file"):
        go(resume=True)


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "json", "npz", "npy", "function"])
def test_every_kind_of_input_is_read_on_where_it_was_left(
    iris_package, iris, tmp_path, monkeypatch, kind
):
    package = iris_package()
    source = tmp_path / f"rows.{kind}"
    if kind == "function":
        np.save(tmp_path / "rows.npy", iris[0])
        (tmp_path / "rows.py").write_text(
            "import numpy as np\n"
            "def some():\n"
            f"    rows = np.load({str(tmp_path / 'rows.npy')!r})\n"
            "    yield rows[:50]\n"
            "    yield rows[50:]\n"
        )
        source = f"{tmp_path / 'rows.py'}:some"
    else:
        write(source, iris[0])
    keep = ("id",) if kind not in ("npy", "function") else ()
    go(package, source, tmp_path / "whole.npz", folder=False, keep=keep)
    interrupt_after(monkeypatch, parts=4)
    with pytest.raises(KeyboardInterrupt):
        go(package, source, tmp_path / "out.npz", folder=False, keep=keep)
    monkeypatch.undo()
    assert go(package, source, tmp_path / "out.npz", folder=False, keep=keep, resume=True).resumed
    assert content(tmp_path / "out.npz") == content(tmp_path / "whole.npz")
