"""Reads a config.json as strict JSON. Missing, wrong and unknown keys are errors. It knows no architecture."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tokenworks.errors import SpecError
from tokenworks.specs.files import opened, unreadable
from tokenworks.specs.load import short

MOST_BYTES = 8 * 2**20
# A larger number is a typing error. Real models have up to 300,000 words, 130 layers and a context of ten million
# tokens.
MOST_WIDTH = 10**7
MOST_LAYERS = 1000
MOST_CONTEXT = 10**9

# Keys that change neither shapes of weights, nor the cache, nor the work: tokens, generation, training, bookkeeping.
_INERT = """
architectures auto_map dtype torch_dtype transformers_version model_type is_encoder_decoder is_decoder use_cache
add_cross_attention cross_attention_hidden_size tie_encoder_decoder return_dict output_attentions torchscript
output_hidden_states output_router_logits router_aux_loss_coef router_jitter_noise aux_loss_alpha seq_aux
initializer_range initializer_factor pretraining_tp ep_size use_bfloat16 pruned_heads chunk_size_feed_forward
problem_type finetuning_task id2label label2id task_specific_params prefix tokenizer_class ignore_index
rope_theta rope_scaling rope_parameters rope_interleave partial_rotary_factor rotary_dim rope_type mrope_section
rms_norm_eps layer_norm_eps layer_norm_epsilon layernorm_epsilon norm_eps
attention_dropout hidden_dropout hidden_dropout_prob embd_pdrop resid_pdrop dropout
hidden_act hidden_activation swiglu_limit swiglu_alpha final_logit_softcapping attn_logit_softcapping
norm_topk_prob scoring_func routed_scaling_factor topk_method topk_group n_group
max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p
typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids
num_return_sequences output_scores return_dict_in_generate suppress_tokens begin_suppress_tokens
exponential_decay_length_penalty remove_invalid_values tf_legacy_loss
"""
INERT = frozenset(_INERT.split())
_INERT_ENDS = ("_token_id", "_token_ids", "_token_index", "_placeholder")

Json = Any


def read_json(path: Path) -> dict[str, Json]:
    """Parse a JSON object of at most 8 MB, with or without a byte order mark.

    Raises
    ------
    SpecError : NaN, Infinity, a duplicate key, a truncated file, or bytes that are not UTF-8; the message has the file
    """
    try:
        with opened(path) as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise SpecError("is over 8 MB", where=str(path), hint="no config.json is that large")
        text = raw.decode("utf-8-sig")
        config = json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_finite)
    except OSError as error:
        raise unreadable(error, path) from error
    except (ValueError, RecursionError) as error:  # wrong JSON, wrong UTF-8, or a number with too many digits
        hint = "a config.json has only finite numbers, and ends with its last brace"
        raise SpecError(f"not valid JSON: {error}", where=str(path), hint=hint) from error
    if not isinstance(config, dict):
        raise SpecError("the file is no JSON object", where=str(path), hint="give a Hugging Face config.json")
    return config


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """A JSON object without duplicate keys: a program would silently use only one of their values."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"duplicate key {short(repr(key))}")
    return unique


def _not_finite(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{short(digits)} is too large")
    return value


class NotTold(SpecError):
    """The config does not have a field, or its value is one that this package cannot count."""


class Fields:
    """One object of a config. Every key must be read or be inert: `done` refuses all other keys.

    Parameters
    ----------
    data : the object
    where : file, for messages
    defaults : documented defaults of the transformers config class
    path : path of the object in the file, for messages
    """

    def __init__(self, data: Mapping[str, Json], where: str, defaults: Mapping[str, Json] = {}, path: str = "") -> None:
        self._data, self._defaults, self._path = data, defaults, path
        self.where = where
        self._seen: set[str] = set()
        self.used_defaults: dict[str, Json] = {}

    def error(self, key: str, message: str, *, hint: str = "") -> SpecError:
        """An error with file and path of a key."""
        return SpecError(f"{self._path}{key}: {message}", where=self.where, hint=hint)

    def has(self, key: str) -> bool:
        """True if the key is present and not null."""
        self._seen.add(key)
        return self._data.get(key) is not None

    def raw(self, key: str) -> Json:
        """The value of a key, or its class default; an error that names the key if there is neither."""
        if self.has(key):
            return self._data[key]
        if key in self._defaults:
            self.used_defaults[key] = self._defaults[key]
            return self._defaults[key]
        missing = self.error(key, "the field is missing", hint="this architecture cannot be computed without it")
        raise NotTold(missing.message, where=missing.where, hint=missing.hint)

    def whole(self, key: str, *, least: int = 1, most: int = MOST_WIDTH) -> int:
        """A whole number, such as a count or a width."""
        value = self.raw(key)
        if type(value) is not int:
            raise self.error(key, f"want a whole number, got {short(repr(value))}")
        if not least <= value <= most:
            raise self.error(key, f"{short(str(value))} is not between {least} and {most:,}")
        return value

    def layers(self, key: str = "num_hidden_layers") -> int:
        """A number of layers, at least one."""
        return self.whole(key, most=MOST_LAYERS)

    def drafts(self, key: str = "num_nextn_predict_layers") -> int:
        """A number of MTP layers; 0 if the key is absent."""
        return self.whole(key, least=0, most=MOST_LAYERS) if self.has(key) else 0

    def either(self, *keys: str) -> int:
        """A count for which publishers use different keys; the first key that is present counts."""
        used = next((key for key in keys if self.has(key)), " or ".join(keys))
        return self.whole(used)

    def or_zero(self, *keys: str) -> int:
        """A count that may be absent or null, which means 0; the first key that is present counts."""
        used = next((key for key in keys if self.has(key)), None)
        return 0 if used is None else self.whole(used, least=0)

    def flag(self, key: str) -> bool:
        """True or false. An absent key has its class default, or else false."""
        if not self.has(key) and key not in self._defaults:
            return False
        value = self.raw(key)
        if type(value) is not bool:
            raise self.error(key, f"want true or false, got {short(repr(value))}")
        return value

    def word(self, key: str, allowed: Iterable[str]) -> str:
        """One of the allowed words."""
        value = self.raw(key)
        if not isinstance(value, str) or value not in set(allowed):
            raise self.error(key, f"{short(repr(value))} is not known", hint=f"known: {', '.join(sorted(allowed))}")
        return value

    def per_layer(self, key: str, length: int, allowed: Sequence[Json], *, extra: int = 0) -> list[Json]:
        """A list with one allowed entry per layer. Up to `extra` more entries, for draft layers, are dropped."""
        value = self.raw(key)
        if not isinstance(value, list) or not length <= len(value) <= length + extra:
            size = f"{len(value)} entries" if isinstance(value, list) else short(repr(value))
            raise self.error(key, f"want a list of {length} entries, one a layer, got {size}")
        for index, entry in enumerate(value):
            if not any(entry == choice and type(entry) is type(choice) for choice in allowed):
                raise self.error(f"{key}[{index}]", f"{short(repr(entry))} is not known", hint=f"known: {allowed}")
        return value[:length]

    def number(self, key: str) -> float:
        """A positive, finite number."""
        value = self.raw(key)
        if type(value) not in (int, float) or not 0 < value < MOST_WIDTH:
            raise self.error(key, f"want a positive number, got {short(repr(value))}")
        return float(value)

    def items(self, key: str) -> list[Json]:
        """A list."""
        value = self.raw(key)
        if not isinstance(value, list):
            raise self.error(key, f"want a list, got {short(repr(value))}")
        return value

    def table(self, key: str, defaults: Mapping[str, Json] | None = None) -> Fields:
        """A nested object as `Fields`."""
        value = self.raw(key)
        if not isinstance(value, dict):
            raise self.error(key, f"want an object, got {short(repr(value))}")
        return Fields(value, self.where, defaults or {}, f"{self._path}{key}.")

    def must(self, key: str, *values: Json) -> None:
        """Refuse a key that is present with a value other than `values`, because we cannot count it."""
        if self.has(key) and not any(self._data[key] == value for value in values):
            known = " or ".join(repr(value) for value in values)
            raise self.error(key, f"{short(repr(self._data[key]))} is not supported", hint=f"known: {known}")

    def names(self) -> list[str]:
        """All keys of the object; for objects whose keys are names."""
        return list(self._data)

    def ignore(self, *keys: str) -> None:
        """Accept keys of this family that change neither weights nor cache nor work."""
        self._seen.update(keys)

    def done(self) -> None:
        """Refuse a key that was not read, because it may change the architecture. A key with null is accepted."""
        for key, value in self._data.items():
            inert = key in INERT or key.startswith("_") or key.endswith(_INERT_ENDS)
            if key not in self._seen and not inert and value is not None:
                near = difflib.get_close_matches(key, self._seen, n=1, cutoff=0.8)
                hint = f"did you mean {near[0]}?" if near else "it may change the architecture, so it cannot be skipped"
                raise self.error(key, "a field that this architecture does not know", hint=hint)
