"""The same rows as files of every kind that `mlserve predict` reads."""

import gzip
import json

import numpy as np

NAMES = ["sl", "sw", "pl", "pw"]


def table_of(rows, **beside):
    import pyarrow as pa

    return pa.table(dict(zip(NAMES, rows.T, strict=True)) | beside)


def write(path, rows):
    """The rows as a file of the kind that the name says."""
    import pyarrow as pa
    import pyarrow.feather as feather
    import pyarrow.parquet as pq

    table = table_of(rows, id=np.arange(len(rows)), target=["?"] * len(rows))
    lines = [json.dumps(row) for row in table.to_pylist()]
    text = ",".join(table.column_names) + "\n"
    text += "".join(",".join(map(str, row.values())) + "\n" for row in table.to_pylist())
    match path.name.partition(".")[2]:
        case "parquet":
            pq.write_table(table, path, row_group_size=17)
        case "arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table, max_chunksize=17)
        case "stream.arrow":
            with pa.ipc.new_stream(path, table.schema) as file:
                file.write_table(table, max_chunksize=17)
        case "feather":
            feather.write_feather(table, path)
        case "csv":
            path.write_text(text)
        case "csv.gz":
            path.write_bytes(gzip.compress(text.encode()))
        case "jsonl":
            path.write_text("\n".join(lines))
        case "jsonl.gz":
            path.write_bytes(gzip.compress("\n".join(lines).encode()))
        case "json":
            path.write_text(f"[{','.join(lines)}]")
        case "npz":
            np.savez(path, x=rows, id=np.arange(len(rows)), target=np.zeros(len(rows)))
        case "npy":
            np.save(path, rows)
    return path
