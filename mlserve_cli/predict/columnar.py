"""What readers of Parquet and Arrow share: the columns of each schema, and blocks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlserve_cli.predict import table
from mlserve_cli.predict.blocks import Block, Plan, Prepared
from mlserve_cli.predict.inputs import Inputs

if TYPE_CHECKING:
    import pyarrow as pa


class ColumnarReader:
    """The base of readers whose blocks hold (columns, record batch)."""

    def __init__(self, inputs: Inputs, plan: Plan) -> None:
        table.require()
        self._files = inputs.files
        self._plan = plan
        self._columns: dict[str, table.Columns] = {}

    def _columns_of(self, schema: pa.Schema, name: str) -> table.Columns:
        """How the columns of a file are used, found once for all files of that schema."""
        key = schema.remove_metadata().to_string()
        if key not in self._columns:
            self._columns[key] = table.Columns(schema, self._plan, where=f"'{name}'")
        return self._columns[key]

    def prepare(self, block: Block) -> Prepared:
        """Columns → tensors."""
        columns, batch = block.content
        prepared: Prepared = columns.prepare(batch)
        return prepared

    def close(self) -> None:
        """Files are closed as they end."""
