import msgspec
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.predict.job import Job, Part, Position, read

JOB = Job(
    package="sha256:0", model="m", version="1", inputs=(), kind="csv", format="csv",
    mapping={}, keep=(), batch=1, block=1, part=1, threads=1,
)  # fmt: skip
PART = Part(
    file="part-00000.csv", rows=1, rejected=1, size=1, sha256="0",
    rejects="_part-00000.rejects.jsonl", after=Position(),
)  # fmt: skip


def test_a_manifest_is_read_as_it_was_written():
    job = msgspec.structs.replace(JOB, parts=(PART,))
    assert read(job.to_json(), "_manifest.json") == job


@pytest.mark.parametrize("field", ["file", "rejects"])
@pytest.mark.parametrize("name", ["../letter.txt", "/etc/hosts", "sub/part.csv", ".."])
def test_a_manifest_that_names_files_of_other_folders_is_refused(field, name):
    part = msgspec.structs.replace(PART, **{field: name})
    job = msgspec.structs.replace(JOB, parts=(part,))
    with pytest.raises(DataError, match="names files of other folders"):
        read(job.to_json(), "_manifest.json")
