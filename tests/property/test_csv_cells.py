"""Laws of reading CSV: a block as a whole and row by row are the same, whatever stands in it."""

import io

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlserve_cli.predict import cells, rows
from mlserve_cli.predict.blocks import Plan
from mlserve_cli.predict.csv import CsvReader
from mlserve_cli.predict.inputs import Inputs
from mlserve_cli.predict.job import Position
from mlserve_cli.predict.location import Location
from mlserve_cli.runtime import processing
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing.declaration import Column, Processing, TableInput
from mlserve_cli.runtime.tensors import TensorSpec

pytest.importorskip("pyarrow")

ODD = [
    "", " ", "nan", "NaN", "-nan", "nan(1)", "inf", "-Infinity", "1e400", "1e-400", "1e39", "+1",
    "-0", "1_000", "007", "0x1F", "3.0", "1.5", ".5", "5.", ".", "1e", " 2 ", "\t2", "\x0b2", "٣",
    "²", "9007199254740993", "123456789012345678901234567890", "-1", "true", "TRUE", "tRuE", "No",
    "yes ", "null", "NA", "é", "\ufeff1", "\ufeff", "\0", "a b", "1,5", 'a"b', '"', '""', "x",
    "3\r", "\r", "\n",
]  # fmt: skip
cell = st.one_of(
    st.floats().map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["0", "1", "2.5", "-3"]),
    st.sampled_from(ODD),
    st.text(max_size=4),
)
plain = st.one_of(
    st.floats(-1e6, 1e6).map(repr), st.integers(-9, 9).map(str), st.sampled_from(["", "1", "0"])
)
KINDS = {"number": "FP32", "integer": "INT64", "string": "BYTES", "boolean": "FP32"}
DEFAULTS = {"number": 1.5, "integer": 3, "string": "x", "boolean": True}


@st.composite
def manifests(draw, width):
    """A package that declares its columns, or one that only has inputs of their names."""
    names = [f"c{number}" for number in range(width)]
    if draw(st.booleans()):
        types = draw(st.lists(st.sampled_from(list(KINDS)), min_size=width, max_size=width))
        declared = tuple(
            Column(
                name,
                type=kind,
                nullable=kind == "number" and draw(st.booleans()),
                default=DEFAULTS[kind] if draw(st.booleans()) else None,
                tensor=name,
            )
            for name, kind in zip(names, types, strict=True)
        )
        datatypes = [KINDS[kind] for kind in types]
        processed = Processing(input=TableInput(columns=declared))
    else:
        some = ["FP32", "FP16", "FP64", "INT64", "INT8", "UINT8", "BOOL", "BYTES"]
        datatypes = draw(st.lists(st.sampled_from(some), min_size=width, max_size=width))
        processed = Processing()
    inputs = tuple(
        TensorSpec(name, datatype, ("batch", 1))
        for name, datatype in zip(names, datatypes, strict=True)
    )
    return Manifest(
        name="made", version="1", variant="fp32", inputs=inputs, outputs=(), processing=processed
    )


@st.composite
def files(draw):
    """(manifest, bytes of a file, rows of a block, a kept column or none)."""
    width = draw(st.integers(1, 3))
    beside = draw(st.booleans())
    cells_of_it = draw(st.sampled_from([cell, plain, plain]))
    names = [f"c{number}" for number in range(width)] + ["id"] * beside
    end = draw(st.sampled_from(["\n", "\r\n"]))
    quoted = draw(st.sampled_from(["never", "never", "always", "sometimes"]))
    lines = []
    for _ in range(draw(st.integers(0, 12))):
        count = len(names) + draw(st.sampled_from([0] * 12 + [1, -1]))
        row = [draw(cells_of_it) for _ in range(count)]
        if quoted != "never":
            row = [
                '"' + each.replace('"', '""') + '"'
                if quoted == "always" or draw(st.booleans())
                else each
                for each in row
            ]
        lines.append(",".join(row))
        if draw(st.integers(0, 9)) == 0:
            lines.append(draw(st.sampled_from(["", "", " "])))
    text = end.join([",".join(names), *lines]) + draw(st.sampled_from(["", end]))
    content = text.encode("utf-8", "replace")
    if draw(st.booleans()):
        content = b"\xef\xbb\xbf" + content
    head = content.find(b"\n") + 1
    if head and draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(head, len(content)))
        content = content[:place] + b"\xff" + content[place:]
    keep = ("id",) if beside and draw(st.booleans()) else ()
    return draw(manifests(width)), content, draw(st.integers(1, 8)), keep


def read(manifest, content, block, keep, start=None):
    """What the reader makes of a file: for each block its place, its tensors and its rejects."""

    class Held(Location):
        def open(self):
            return io.BytesIO(content)

    plan = Plan(
        manifest=manifest,
        processor=processing.build(manifest, None),
        keep=keep,
        block=block,
    )
    reader = CsvReader(Inputs("csv", (Held("rows.csv", len(content), "", "rows.csv"),)), plan)
    made = []
    for each in reader.blocks(start or Position()):
        found = reader.prepare(each)
        whole = {}
        for name in found.groups[0] if found.groups else ():
            whole[name] = np.concatenate([group[name] for group in found.groups])
        kept = {
            name: column if isinstance(column, list) else column.to_pylist()
            for name, column in found.kept.items()
        }
        rejects = sorted((reject.row, reject.reason) for reject in found.rejects)
        made.append((each.first, each.count, each.after, list(found.rows), whole, rejects, kept))
    return made


def same(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[:4] == theirs[:4]
        assert ours[5:] == theirs[5:]
        assert ours[4].keys() == theirs[4].keys()
        for name, array in ours[4].items():
            assert array.dtype == theirs[4][name].dtype
            np.testing.assert_array_equal(array, theirs[4][name])


FLOATS = Manifest(
    name="made", version="1", variant="fp32", outputs=(),
    inputs=(TensorSpec("c0", "FP32", ("batch", 1)), TensorSpec("c1", "INT64", ("batch", 1))),
)  # fmt: skip

DECLARED = Manifest(
    name="made", version="1", variant="fp32", outputs=(),
    inputs=(TensorSpec("c0", "INT64", ("batch", 1)),),
    processing=Processing(input=TableInput(columns=(Column("c0", type="integer", tensor="c0"),))),
)  # fmt: skip


@given(files())
@example((FLOATS, b"c0,c1\n1,2\nnan(1),3\n4,0x5\n", 2, ()))
@example((FLOATS, b"c0,c1\n1,2\n\xef\xbb\xbf3,4\n", 1, ()))
@example((FLOATS, b"c0,c1\n1,2\n3,4\r5,6\n7,8\n", 2, ()))
@example((FLOATS, b"c0,c1,id\n1,2,\xff\n3,4,5\n", 2, ()))
@example((DECLARED, b"c0\n9007199254740993\n3\n", 2, ()))
@settings(max_examples=400)
def test_a_block_as_a_whole_is_what_its_rows_are_one_by_one(made):
    manifest, content, block, keep = made
    found = read(manifest, content, block, keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "find", lambda *given, **named: None)
        expected = read(manifest, content, block, keep)
    same(found, expected)
    if len(found) > 1:  # whoever goes on after a block reads the same
        same(read(manifest, content, block, keep, found[0][2]), found[1:])


def test_plain_and_quoted_numbers_are_read_without_a_look_at_each_row(monkeypatch):
    made = np.random.default_rng(0).standard_normal((500, 2))
    lines = [f"{a!r},{b!r}" for a, b in made.tolist()]
    quoted = [f'"{a!r}","{b!r}"' for a, b in made.tolist()]
    manifest = Manifest(
        name="made", version="1", variant="fp32", outputs=(),
        inputs=(TensorSpec("c0", "FP64", ("batch", 1)), TensorSpec("c1", "FP64", ("batch", 1))),
    )  # fmt: skip

    def slow(*given, **named):
        raise AssertionError("row by row")

    monkeypatch.setattr(rows, "prepare", slow)
    for some in (lines, quoted):
        content = "\n".join(["c0,c1", *some]).encode()
        found = np.concatenate(
            [np.concatenate([each[4]["c0"], each[4]["c1"]], axis=1)
             for each in read(manifest, content, 64, ())]
        )  # fmt: skip
        np.testing.assert_array_equal(found, made)


def test_one_bad_row_does_not_make_a_block_slow(monkeypatch):
    lines = ["c0,c1", *[f"{number},2" for number in range(4096)]]
    lines[1000] = "three,2"
    looked_at = []
    prepare = (
        cells.__dict__["table"]
        and __import__("mlserve_cli.predict.rows", fromlist=["prepare"]).prepare
    )

    def counted(values, *given, **named):
        looked_at.extend(values)
        return prepare(values, *given, **named)

    monkeypatch.setattr(rows, "prepare", counted)
    (block,) = read(FLOATS, "\n".join(lines).encode(), 4096, ())
    assert block[5] == [(999, "column 'c0' is 'three', and it must be a number")]
    assert block[4]["c0"][:, 0].tolist() == [n for n in range(4096) if n != 999]
    assert 0 < len(looked_at) <= 64
