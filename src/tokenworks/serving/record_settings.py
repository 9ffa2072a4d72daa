"""What a recorder does, and what it has seen. `record` is the recorder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tokenworks.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class RecorderSettings:
    """What is recorded, and where.

    Parameters
    ----------
    to : address of the server, such as http://127.0.0.1:8000
    out : the trace; the file must not exist
    host, port : address to listen on; port 0: any free port
    tokenizer : tokenizer.json that counts the tokens of prompts; None: `tokens.BYTES` bytes count as one token
    block_tokens : size of the blocks whose hashes are written [token]
    text : whether requests and answers are written as text, too
    max_body : size of a request body [byte]
    """

    to: str
    out: Path
    host: str = "127.0.0.1"
    port: int = 8001
    tokenizer: Path | None = None
    block_tokens: int = 16
    text: bool = False
    max_body: int = 32 << 20

    def check(self) -> None:
        """Refuse what cannot be recorded.

        Raises
        ------
        SpecError : a setting is wrong, or the file exists
        """
        parts = urlsplit(self.to)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            hint = "write http://HOST:PORT or https://HOST"
            raise SpecError(f"{self.to!r} is no address of a server", where="--to", hint=hint)
        for where, value, least, most in (
            ("--port", self.port, 0, 65535), ("--block-tokens", self.block_tokens, 1, 4096),
            ("--max-body", self.max_body, 1, 1 << 30),
        ):  # fmt: skip
            if not least <= value <= most:
                raise SpecError(f"{value:,} is out of range", where=where, hint=f"give {least:,} to {most:,}")
        if self.out.exists():
            hint = "name another file: a recording never replaces one"
            raise SpecError("exists already", where=str(self.out), hint=hint)


@dataclass
class RecordedCounts:
    """What a recorder has seen.

    Parameters
    ----------
    requests : requests in the trace
    rows : rows of the trace: one for each choice of each prompt
    failed : requests with an error, and answers that could not be read; they are not in the trace
    left : requests in the trace whose client left before the end of the answer
    counted : requests in the trace whose answer told no usage
    passed : requests of other routes, which are not recorded
    """

    requests: int = 0
    rows: int = 0
    failed: int = 0
    left: int = 0
    counted: int = 0
    passed: int = 0
