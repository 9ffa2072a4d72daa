"""Reads a config.json as strict JSON, and remembers which of its keys were used. It knows no architecture."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
activation_function logits_scaling logit_scale layerdrop init_std lambda_std_dev scale_embedding query_pre_attn_scalar
projector_hidden_act vision_feature_layer vision_feature_select_strategy image_seq_length image_grid_pinpoints
video_seq_length projector_pooling_ratio vision_aspect_ratio num_logits_to_keep mamba_chunk_size time_step_limit
time_step_floor time_step_max time_step_min use_mamba_kernels use_associative_scan use_mambapy use_mem_eff_path
use_long_context use_mem_rope mamba_norm_before_gate layer_rope_theta alibi alibi_bias_max attn_impl attn_type
attn_uses_sequence_id prefix_lm moe_norm_min router_scaling_factor enable_moe_fp32_combine position_id_per_seconds
seconds_per_chunk unsloth_fixed unsloth_version is_llama_config rope_interleaved use_bidirectional_attention
embedding_initializer_range
"""
INERT = frozenset(_INERT.split())
_INERT_ENDS = (
    "_token_id", "_token_ids", "_token_index", "_placeholder", "_multiplier", "_multipliers", "_dropout", "_pdrop",
    "_eps", "_dropout_prob",
)  # fmt: skip

Json = Any


def read_json(path: Path) -> dict[str, Json]:
    """Parse a JSON object of at most 8 MB, with or without a byte order mark.

    Raises
    ------
    SpecError : NaN, a duplicate key, a truncated file, or bytes that are not UTF-8; the message has the file
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
        hint = "a config.json is an object of JSON, and ends with its last brace"
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


def _not_finite(word: str) -> float:
    """Infinity, which published files have (`time_step_limit` of Mamba-2). NaN is refused."""
    if word == "NaN":
        raise ValueError(f"{word} is no number")
    return float(word)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{short(digits)} is too large")
    return value


class NotTold(SpecError):
    """The config does not have a field, or its value is one that this package cannot count."""


_SHAPES = re.compile(
    r"(_size|_dim|_dims|_rank|_width|_layers|_heads|_experts|_groups|_length|_types|_pattern)$|^(num|n)_"
)
"""Names of keys that may hold a shape."""


class Fields:
    """One object of a config. It remembers which keys were read, so that `unused` can name the others.

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
        self._tables: dict[str, Fields] = {}
        self._used_defaults: dict[str, Json] = {}

    def error(self, key: str, message: str, *, hint: str = "") -> SpecError:
        """An error with file and path of a key."""
        return SpecError(f"{self._path}{key}: {message}", where=self.where, hint=hint)

    def missing(self, key: str) -> NotTold:
        """The error about a key that is not there."""
        error = self.error(key, "the field is missing", hint="this architecture cannot be computed without it")
        return NotTold(error.message, where=error.where, hint=error.hint)

    def path(self, key: str) -> str:
        """Path of a key in the file."""
        return f"{self._path}{key}"

    def has(self, key: str) -> bool:
        """True if the key is present and not null."""
        self._seen.add(key)
        return self._data.get(key) is not None

    def get(self, key: str) -> Json:
        """The value of a key, or its class default; None if there is neither."""
        if self.has(key):
            return self._data[key]
        if key in self._defaults and (key not in self._data or type(self._defaults[key]) is bool):
            if not isinstance(self._defaults[key], dict):
                self._used_defaults[key] = self._defaults[key]
            return self._defaults[key]
        return None

    def raw(self, key: str) -> Json:
        """The value of a key, or its class default; an error that names the key if there is neither."""
        value = self.get(key)
        if value is None:
            raise self.missing(key)
        return value

    def whole(self, key: str, *, least: int = 1, most: int = MOST_WIDTH) -> int:
        """A whole number, such as a count or a width."""
        return self.checked(key, self.raw(key), least=least, most=most)

    def checked(self, key: str, value: Json, *, least: int = 1, most: int = MOST_WIDTH) -> int:
        """A value that must be a whole number between `least` and `most`; the error names the key."""
        if type(value) is not int:
            raise self.error(key, f"want a whole number, got {short(repr(value))}")
        if not least <= value <= most:
            raise self.error(key, f"{short(str(value))} is not between {least} and {most:,}")
        return value

    def flag(self, key: str) -> bool:
        """True or false. An absent key has its class default, or else false."""
        value = self.get(key)
        if value is not None and type(value) is not bool:
            raise self.error(key, f"want true or false, got {short(repr(value))}")
        return bool(value)

    def word(self, key: str, allowed: Iterable[str]) -> str:
        """One of the allowed words."""
        value = self.raw(key)
        if not isinstance(value, str) or value not in set(allowed):
            raise self.error(key, f"{short(repr(value))} is not known", hint=f"known: {', '.join(sorted(allowed))}")
        return value

    def items(self, key: str) -> list[Json]:
        """A list."""
        value = self.raw(key)
        if not isinstance(value, list):
            raise self.error(key, f"want a list, got {short(repr(value))}")
        return value

    def table(self, key: str, defaults: Mapping[str, Json] | None = None) -> Fields:
        """A nested object as `Fields`. The same object is returned each time."""
        if key in self._tables:
            return self._tables[key]
        value = self.raw(key)
        if not isinstance(value, dict):
            raise self.error(key, f"want an object, got {short(repr(value))}")
        inner = self._defaults.get(key)
        known = defaults or (inner if isinstance(inner, dict) else {})
        self._tables[key] = Fields(value, self.where, known, f"{self._path}{key}.")
        return self._tables[key]

    def must(self, key: str, *values: Json) -> None:
        """Refuse a key that is present with a value other than `values`, because we cannot count it."""
        if self.has(key) and not any(self._data[key] == value for value in values):
            known = " or ".join(repr(value) for value in values)
            raise self.error(key, f"{short(repr(self._data[key]))} is not supported", hint=f"known: {known}")

    def with_defaults(self, defaults: Mapping[str, Json]) -> Fields:
        """The same object, with class defaults."""
        self._defaults = defaults
        return self

    def names(self) -> list[str]:
        """All keys of the object; for objects whose keys are names."""
        return list(self._data)

    def ignore(self, *keys: str) -> None:
        """Accept keys of this family that change neither weights nor cache nor work."""
        self._seen.update(keys)

    def used_defaults(self) -> dict[str, Json]:
        """Keys that had their class default, with their paths, here and in nested objects."""
        used = {self.path(key): value for key, value in self._used_defaults.items()}
        for table in self._tables.values():
            used |= table.used_defaults()
        return used

    def unused(self) -> Iterator[str]:
        """Paths of the keys that nobody read and that are not known to be without effect, in nested objects too.

        A key with null or false says that something is not there, so it is left out.
        """
        for key, value in self._data.items():
            inert = key in INERT or key.startswith("_") or key.endswith(_INERT_ENDS)
            if key not in self._seen and not inert and value is not None and value is not False:
                yield self.path(key)
        for table in self._tables.values():
            yield from table.unused()


def unused_note(paths: Iterable[str]) -> str:
    """One note about the keys that were not used; keys whose names look like shapes come first. Empty: no such keys."""
    every = list(dict.fromkeys(paths))
    shapes = [path for path in every if _SHAPES.search(path.rsplit(".", 1)[-1])]
    others = [path for path in every if path not in shapes]
    words = ["these may be shapes, so check the counts: " + ", ".join(shapes)] if shapes else []
    words += [", ".join(others)] if others else []
    return f"not used: {'; '.join(words)}" if words else ""
