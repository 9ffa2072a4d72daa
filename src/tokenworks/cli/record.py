"""`tokenworks record`: a proxy before an OpenAI-compatible server that writes a trace."""

from __future__ import annotations

from pathlib import Path

from tokenworks.cli.output import notes


def record(
    *,
    to: str,
    out: Path,
    host: str = "127.0.0.1",
    port: int = 8001,
    tokenizer: Path | None = None,
    block_tokens: int = 16,
    text: bool = False,
    max_body: int = 32 << 20,
) -> None:
    """Record the requests that pass through to an OpenAI-compatible server, as a trace.

    Parameters
    ----------
    to
        Address of the server, such as http://127.0.0.1:8000 or https://HOST.
    out
        The trace. The file must not exist.
    host
        Address to listen on. The default takes connections from this computer only.
    port
        Port to listen on; 0 takes any free port. The address is printed.
    tokenizer
        Count the tokens of prompts with this tokenizer.json; by default 4 bytes of text count as one token.
    block_tokens
        Size of the blocks whose hashes are written [token].
    text
        Write requests and answers as text, too.
    max_body
        Size of a request body [byte]; a longer one gets 413.
    """
    from tokenworks.serving.installed import must_be_installed

    must_be_installed("record")
    from tokenworks.serving.record import record as recorded
    from tokenworks.serving.record_settings import RecorderSettings

    settings = RecorderSettings(
        to=to, out=out, host=host, port=port, tokenizer=tokenizer, block_tokens=block_tokens, text=text,
        max_body=max_body,
    )  # fmt: skip
    say = notes().paragraph
    counts = recorded(settings, lambda where, number: say(f"{to} behind http://{where}:{number}, Ctrl-C stops it"))
    say(f"{counts.requests} requests in {out}, in {counts.rows} rows")
    for count, words in (
        (counts.failed, "failed, and are not in the trace"),
        (counts.left, "ended early, as their client left"),
        (counts.counted, "told no usage: their tokens are counted"),
    ):
        if count:
            say(f"note: {count} requests {words}")
