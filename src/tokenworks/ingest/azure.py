"""Azure LLM inference CSV (2023, 2024): TIMESTAMP, ContextTokens, GeneratedTokens.

Format: Azure/AzurePublicDataset, data/AzureLLMInferenceTrace_*.csv; in UTC. A column `class` is our own addition.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from tokenworks.ingest.rows import ClassName, Rows, Tokens
from tokenworks.ingest.table import Table
from tokenworks.specs.trace import Trace


class Row(msgspec.Struct):
    """One line."""

    time: datetime = msgspec.field(name="TIMESTAMP")
    context: Tokens = msgspec.field(name="ContextTokens")
    generated: Tokens = msgspec.field(name="GeneratedTokens")
    kind: ClassName = msgspec.field(name="class", default="")


def read(rows: Rows) -> Trace:
    """Read an Azure trace."""
    table = Table()
    for line, row in rows.csv(Row):
        time = row.time if row.time.tzinfo else row.time.replace(tzinfo=UTC)
        rows.in_order(line, time.timestamp())
        table.add(time.timestamp(), row.context, row.generated, kind=row.kind)
    return table.trace(rows)
