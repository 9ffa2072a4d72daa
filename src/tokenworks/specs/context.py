"""The context limit of a model: its own, or another one that the user sets with `--max-model-len`.

A shorter limit is always allowed. A longer one is allowed as far as the publisher documents it: in the rope scaling of
the config.json, or on the model card (`catalog/models/extended_context.yaml`).
"""

from __future__ import annotations

from dataclasses import replace

from tokenworks.errors import SpecError
from tokenworks.specs.model import Model

FLAG = "--max-model-len"


def with_max_model_len(model: Model, tokens: int | None) -> Model:
    """The model with another context limit.

    Parameters
    ----------
    model : the model with its own limit
    tokens : new limit of input + output of a request; None: the limit of the model stays [token]

    Raises
    ------
    SpecError : less than two tokens (one of input, one of output), or more than the publisher documents
    """
    if tokens is None:
        return model
    if tokens < 2:
        hint = "a request has at least one token of input and one of output: write 2 or more"
        raise SpecError(f"{tokens} is not a context limit", where=FLAG, hint=hint)
    extended, own = model.extended_context, model.own_context or model.max_context
    longest = max(own, extended.tokens) if extended else own
    if tokens <= longest:
        return replace(model, max_context=tokens, own_context=own)
    if extended:
        reads = f"{model.name} reads {own:,}, or {longest:,} {extended.words}"
    else:
        reads = f"{model.name} reads {own:,}, and neither its config.json nor the catalog has a rope scaling for more"
    raise SpecError(f"{tokens:,} tokens: {reads}", where=FLAG, hint=f"write {longest:,} or less")


def context_note(model: Model) -> str:
    """A note about a context limit that the user set; empty for the limit of the model."""
    own, extended = model.own_context, model.extended_context
    if own is None:
        return ""
    if extended and model.max_context > own:
        way = f"{extended.words}; without it {model.name} reads {own:,} ({extended.source})"
    else:
        way = f"{model.name} itself reads {own:,}"
    return f"Context limit ({FLAG}): {model.max_context:,} tokens, {way}."


def model_notes(model: Model) -> tuple[str, ...]:
    """Notes about what is not as the model was published: another context limit, converted weights."""
    return tuple(filter(None, (context_note(model), model.converted)))


def way_out(model: Model, tokens: float) -> str:
    """Advice for a request that is longer than the context limit.

    Parameters
    ----------
    model : the model
    tokens : input + output tokens of the request [token]
    """
    extended, own = model.extended_context, model.own_context or model.max_context
    longest = max(own, extended.tokens) if extended else own
    if not model.max_context < tokens <= longest:
        return "shorten the requests"
    how = f" ({extended.words})" if extended and tokens > own else ""
    return f"set {FLAG} to {longest:,}{how}, or shorten the requests"
