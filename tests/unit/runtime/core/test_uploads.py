"""A package over HTTP: unpacked whole, or refused with nothing left behind."""

import asyncio
import io
import tarfile

import pytest

from mlserve_cli.runtime.body import Disconnected
from mlserve_cli.runtime.errors import InvalidRequest, TooLarge
from mlserve_cli.runtime.uploads import unpacked


def tar(*members):
    """(name, content) for files; a ready TarInfo for anything else."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def unpack(folder, *parts, limit_bytes=1 << 20, end="http.request"):
    """What is in the unpacked folder: path → content."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": end, "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    async def main():
        async with unpacked(receive, folder, limit_bytes=limit_bytes) as found:
            return {
                path.relative_to(found).as_posix(): path.read_bytes()
                for path in found.rglob("*")
                if path.is_file()
            }

    return asyncio.run(main())


def test_files_and_folders_arrive_in_however_many_parts(tmp_path):
    text = tar(("manifest.json", b"{}"), ("serve/model.onnx", b"\x00" * 5000))
    parts = [text[start : start + 700] for start in range(0, len(text), 700)]

    found = unpack(tmp_path, *parts)

    assert found == {"manifest.json": b"{}", "serve/model.onnx": b"\x00" * 5000}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "member",
    [
        special("serve", tarfile.SYMTYPE, "/etc"),
        special("serve/model.onnx", tarfile.LNKTYPE, "/etc/passwd"),
        special("pipe", tarfile.FIFOTYPE),
        special("device", tarfile.CHRTYPE),
        ("../outside", b"x"),
        ("serve/../../outside", b"x"),
    ],
)
def test_what_leads_out_of_the_package_is_refused(tmp_path, member):
    folder = tmp_path / "models"
    folder.mkdir()

    with pytest.raises(InvalidRequest):
        unpack(folder, tar(("manifest.json", b"{}"), member))

    assert [path.name for path in tmp_path.rglob("*")] == ["models"]


def test_an_absolute_path_stays_inside(tmp_path):
    assert unpack(tmp_path, tar(("/inside.txt", b"x"))) == {"inside.txt": b"x"}


@pytest.mark.parametrize("text", [b"", b"this is no tar", b"\x1f\x8b" + b"\x00" * 600])
def test_what_is_no_tar_is_refused(tmp_path, text):
    with pytest.raises(InvalidRequest, match="no tar of a package"):
        unpack(tmp_path, text)

    assert list(tmp_path.iterdir()) == []


def extended(**facts):
    """A tar of one file with such facts of its own (POSIX.1-2001, "pax Extended Header")."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = special("a", tarfile.REGTYPE)
        info.pax_headers = facts
        archive.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        extended(mtime="inf"),
        extended(size="-512"),
        extended(path="a\0b"),
        extended(path="a" * 5000),
        extended(path="a/" * 2000 + "b"),
        tar(("a", b"1"), ("a/b", b"2")),
        tar(("a/b", b"1"), ("a", b"2")),
        tar(special(".", tarfile.REGTYPE)),
        tar(*[special("x", tarfile.XHDTYPE)] * 1500),
    ],
    ids=["time", "size", "nul", "long", "deep", "below a file", "folder", "root", "recursive"],
)
def test_a_tar_that_python_or_the_disk_stumbles_over_is_the_clients_error(tmp_path, text):
    with pytest.raises(InvalidRequest, match="no tar of a package"):
        unpack(tmp_path, text)

    assert list(tmp_path.iterdir()) == []


def test_a_tar_that_was_cut_short_is_refused(tmp_path):
    text = tar(("serve/model.onnx", b"\x01" * 4000))

    with pytest.raises(InvalidRequest):
        unpack(tmp_path, text[:2000])


def test_more_than_the_limit_is_refused_as_soon_as_it_is_there(tmp_path):
    with pytest.raises(TooLarge, match="larger than 1000 bytes"):
        unpack(tmp_path, b"\x00" * 600, b"\x00" * 600, limit_bytes=1000)

    assert list(tmp_path.iterdir()) == []


def test_a_client_that_leaves_leaves_nothing_behind(tmp_path):
    with pytest.raises(Disconnected):
        unpack(tmp_path, b"\x00" * 512, end="http.disconnect")

    assert list(tmp_path.iterdir()) == []
