"""Reader for the Azure LLM inference CSV (2023, 2024): TIMESTAMP, ContextTokens, GeneratedTokens.

Format: Azure/AzurePublicDataset, data/AzureLLMInferenceTrace_*.csv; times are in UTC. Our own files may have one more
column, `class`.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from tokenworks.ingest import columns
from tokenworks.ingest.rows import Rows, Tokens
from tokenworks.specs.trace import Trace


class AzureRow(columns.CsvRow):
    """One line of the file."""

    time: datetime = msgspec.field(name="TIMESTAMP")
    input: Tokens = msgspec.field(name="ContextTokens")
    output: Tokens = msgspec.field(name="GeneratedTokens")


def read(rows: Rows) -> Trace:
    """Read an Azure trace."""
    return columns.read(rows, AzureRow)
