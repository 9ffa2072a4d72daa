"""Storage formats: bytes with scales, and which weight has which, from every kind of quantization_config."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.specs.hf_cases import DEEPSEEK, FP8, LLAMA, QWEN3_MOE, Config, read, shipped
from tokenworks.errors import SpecError
from tokenworks.specs.hf import load_model
from tokenworks.specs.hf.formats import FP8 as FP8_TENSOR
from tokenworks.specs.hf.formats import MXFP4, NVFP4, fp8_block, integers
from tokenworks.specs.model import Model, parameters, weight_bytes, weight_formats


def kinds(model: Model) -> dict[str, str]:
    """Format of each weight by name; a name with two formats has both."""
    by_name: dict[str, set[str]] = {}
    for block in (*model.blocks, *model.draft):
        for matrix in block.matrices:
            by_name.setdefault(f"{block.name.split()[0]}.{matrix.name}", set()).add(matrix.format.name)
    outer = {"embedding": model.embedding} | ({"head": model.head} if model.head else {})
    return {name: "/".join(sorted(formats)) for name, formats in by_name.items()} | {
        name: matrix.format.name for name, matrix in outer.items()
    }


def quantised(base: Config, quantisation: dict[str, Any], name: str = "test") -> Model:
    return read(base | {"quantization_config": quantisation}, name)


def group(bits: int, kind: str, size: int | None, activations: int | None, **more: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "group_size": size, "symmetric": True, "dynamic": False} | more
    inputs = None if activations is None else {"num_bits": activations, "type": kind}
    return {"targets": ["Linear"], "weights": weights, "input_activations": inputs}


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_bytes_of_an_element_with_scales() -> None:
    """FP8 128 x 128: 1 + 4/16384; NVFP4: a half and an FP8 scale of 16; MXFP4: a half and an E8M0 scale of 32."""
    assert fp8_block(128, 128).bytes == 1 + 4 / 16384
    assert NVFP4.bytes == 0.5 + 1 / 16
    assert MXFP4.bytes == 0.5 + 1 / 32
    assert integers(4, 32, zeros=False, activations=None).bytes == 0.5 + 2 / 32
    assert integers(4, 128, zeros=True, activations=None).bytes == 0.5 + 2.5 / 128
    assert integers(8, None, zeros=False, activations=8).bytes == 1


def test_what_a_format_is_multiplied_in() -> None:
    """W4A16 has BF16 products on any device; FP4 weights with 8-bit activations have the FP8 rate."""
    assert integers(4, 128, zeros=True, activations=None).compute == "bf16"
    assert integers(8, None, zeros=False, activations=8).compute == "int8"
    assert (NVFP4.compute, MXFP4.compute, FP8_TENSOR.compute) == ("fp4", "fp8", "fp8")


def test_a_kimi_k3_expert_is_17_547_264_bytes() -> None:
    """3 x 3584 x 3072 weights in MXFP4, as the tensors of the checkpoint measure (33,030,144 at 0.53125)."""
    blocks = load_model("moonshotai/Kimi-K3").blocks
    expert = [matrix for matrix in next(b for b in blocks if b.experts).matrices if matrix.part == "experts"]
    assert sum(matrix.stored / matrix.copies for matrix in expert) == 17_547_264


@given(st.sampled_from([LLAMA, QWEN3_MOE, DEEPSEEK]), st.integers(1, 500), st.integers(1, 9))
def test_weight_bytes_lie_between_the_formats(base: Config, inner: int, layers: int) -> None:
    config = base | {"intermediate_size": inner, "num_hidden_layers": layers}
    plain, narrow = read(config), quantised(config, FP8)
    assert parameters(plain) == parameters(narrow)
    assert weight_bytes(plain) == 2 * parameters(plain)
    assert parameters(plain) < weight_bytes(narrow) < weight_bytes(plain)
    assert sum(weight_formats(narrow).values()) == pytest.approx(1)


# ── methods ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fp8_blocks_leave_embedding_head_router_and_mtp_projection() -> None:
    formats = kinds(quantised(DEEPSEEK, FP8))
    plain = {name for name, form in formats.items() if form == "bf16"}
    assert plain == {"embedding", "head", "moe.router", "mtp.router", "mtp.eh_proj"}
    assert formats["mtp.kv_b_proj"] == "fp8-block"
    assert kinds(load_model("deepseek-ai/DeepSeek-V3.2"))["moe.index_weights"] == "bf16"


def test_fp8_without_blocks_and_with_modules_kept() -> None:
    formats = kinds(
        quantised(LLAMA, {"quant_method": "fp8", "modules_to_not_convert": ["down_proj", "model.layers.1"]})
    )
    assert formats["dense.down_proj"] == "bf16"
    assert formats["dense.q_proj"] == "bf16/fp8"
    assert kinds(quantised(LLAMA, {"quant_method": "fp8", "ignored_layers": []}))["dense.q_proj"] == "fp8"


def test_mxfp4_is_for_experts_only() -> None:
    """gpt-oss (model card): the experts are MXFP4, the rest BF16; 60.8 GiB of weights."""
    model = load_model("openai/gpt-oss-120b")
    formats = kinds(model)
    assert {name for name, form in formats.items() if form == "mxfp4"} == {"moe.gate_up_proj", "moe.down_proj"}
    assert weight_bytes(model) / 2**30 == pytest.approx(60.8, rel=0.01)


def test_deepseek_v4_mixes_fp4_experts_with_fp8() -> None:
    formats = kinds(load_model("deepseek-ai/DeepSeek-V4-Pro"))
    assert (formats["moe.gate_up_proj"], formats["mtp.gate_up_proj"]) == ("mxfp4", "mxfp4")
    assert (formats["moe.wq_b"], formats["moe.shared_down_proj"], formats["moe.compressor_wkv"]) == (
        "fp8-block", "fp8-block", "bf16",
    )  # fmt: skip
    eight = kinds(load_model("sgl-project/DeepSeek-V4-Pro-FP8"))
    assert eight["moe.gate_up_proj"] == "fp8-block"
    nvidia = kinds(load_model("nvidia/DeepSeek-V4-Pro-NVFP4"))
    assert (nvidia["moe.gate_up_proj"], nvidia["mtp.gate_up_proj"], nvidia["moe.wq_b"]) == (
        "nvfp4", "mxfp4", "fp8-block",
    )  # fmt: skip


def test_modelopt_excludes_by_pattern() -> None:
    """DeepSeek-V3.1-NVFP4: o_proj is quantised, the other projections of attention and the MTP layer are not."""
    model = load_model("nvidia/DeepSeek-V3.1-NVFP4")
    formats = kinds(model)
    assert formats["moe.o_proj"] == "nvfp4"
    assert formats["moe.q_b_proj"] == formats["moe.kv_b_proj"] == formats["head"] == "bf16"
    assert {form for name, form in formats.items() if name.startswith("mtp.")} == {"bf16"}
    assert model.native_kv == "fp8"
    assert sum(matrix.stored for block in model.draft for matrix in block.matrices) > weight_bytes(model) / 100
    dense = kinds(load_model("nvidia/GLM-5.1-NVFP4"))
    assert dense["dense.gate_up_proj"] == "bf16"
    assert dense["moe.gate_up_proj"] == "nvfp4"
    kimi = kinds(load_model("nvidia/Kimi-K2.6-NVFP4"))
    assert (kimi["dense.down_proj"], kimi["moe.down_proj"], kimi["moe.shared_down_proj"]) == ("bf16", "nvfp4", "bf16")
    qwen = kinds(load_model("nvidia/Qwen3.5-397B-A17B-NVFP4"))
    assert (qwen["moe.in_proj_qkv"], qwen["moe.q_proj"], qwen["moe.gate_up_proj"]) == ("bf16", "bf16", "nvfp4")


def test_modelopt_that_excludes_nothing_says_so() -> None:
    assert any("excludes no module" in note for note in load_model("nvidia/Kimi-K2.5-NVFP4").notes)
    nothing = quantised(LLAMA, {"quant_algo": "NVFP4", "exclude_modules": []})
    assert kinds(nothing)["head"] == "bf16"
    assert weight_formats(nothing)["nvfp4"] > 0.4


def test_mixed_precision_without_a_table_is_an_assumption_that_the_notes_name() -> None:
    model = load_model("nvidia/MiniMax-M3-NVFP4")
    assert any(note.startswith("assumed: MIXED_PRECISION") for note in model.notes)
    formats = kinds(model)
    assert (formats["moe.gate_up_proj"], formats["moe.q_proj"]) == ("nvfp4", "fp8")
    dense = kinds(load_model("nvidia/Qwen3.6-27B-NVFP4"))
    assert (dense["dense.gate_up_proj"], dense["dense.q_proj"], dense["mtp.q_proj"]) == ("nvfp4-w4a16", "fp8", "bf16")


def test_mixed_precision_with_its_table() -> None:
    layers = {
        "model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4"},
        "model.layers.1.self_attn.q_proj": {"quant_algo": "FP8"},
    }
    model = quantised(LLAMA, {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers, "exclude_modules": []})
    formats = kinds(model)
    assert (formats["dense.down_proj"], formats["dense.q_proj"], formats["dense.o_proj"]) == (
        "bf16/nvfp4",
        "bf16/fp8",
        "bf16",
    )
    assert model.notes == ()


def test_compressed_tensors() -> None:
    """Kimi-K2.5: INT4 experts in groups of 32, the rest BF16 (its ignore list)."""
    formats = kinds(load_model("moonshotai/Kimi-K2.5"))
    assert {name for name, form in formats.items() if form == "int4"} == {"moe.gate_up_proj", "moe.down_proj"}
    base = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head", "re:.*o_proj"]}
    eight = kinds(quantised(LLAMA, base | {"config_groups": {"group_0": group(8, "float", None, 8)}}))
    assert (eight["dense.q_proj"], eight["dense.o_proj"]) == ("fp8", "bf16")
    blocks = group(8, "float", None, 8, block_structure=[128, 128], strategy="block")
    assert kinds(quantised(LLAMA, base | {"config_groups": {"g": blocks}}))["dense.q_proj"] == "fp8-block"
    w8a8 = kinds(quantised(LLAMA, base | {"config_groups": {"g": group(8, "int", None, 8)}}))
    assert w8a8["dense.q_proj"] == "int8"
    mlp = group(4, "int", 128, None, symmetric=False) | {"targets": ["re:.*mlp.*"]}
    both = kinds(quantised(LLAMA, base | {"config_groups": {"a": group(8, "float", -1, 8), "b": mlp}}))
    assert (both["dense.gate_up_proj"], both["dense.q_proj"]) == ("int4", "fp8")
    only = kinds(quantised(LLAMA, base | {"config_groups": {"b": mlp}}))
    assert (only["dense.gate_up_proj"], only["dense.q_proj"]) == ("int4", "bf16")


@pytest.mark.parametrize(
    ("quantisation", "expected"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, 0.5 + 2.5 / 128),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False}, 0.5 + 2 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}, 0.5 + 2.5 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "dynamic": {}, "lm_head": False}, 1.0),
    ],
)
def test_awq_and_gptq(quantisation: dict[str, Any], expected: float) -> None:
    model = quantised(LLAMA, quantisation)
    assert {matrix.format.bytes for block in model.blocks for matrix in block.matrices} == {expected}
    assert model.embedding.format.bytes == 2


def test_the_kv_dtype_of_a_checkpoint() -> None:
    assert quantised(LLAMA, FP8).native_kv == "bf16"
    assert quantised(LLAMA, {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}).native_kv == "fp8"
    assert load_model("Qwen/Qwen3-32B-FP8-Static-PerTensor").native_kv == "fp8"
    assert load_model("moonshotai/Kimi-K2.5").native_kv == "bf16"


@pytest.mark.parametrize(
    ("quantisation", "name", "size", "compute"),
    [
        ({"quant_method": "mxfp8"}, "mxfp8", 1 + 1 / 32, "fp8"),
        (FP8 | {"weight_block_size": [1, 32], "scale_fmt": "ue8m0"}, "mxfp8", 1 + 1 / 32, "fp8"),
        ({"quant_algo": "MXFP8", "exclude_modules": ["lm_head"]}, "mxfp8", 1 + 1 / 32, "fp8"),
        ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "fp8", 1.0, "fp8"),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True},
            "nf4",
            0.5 + 1 / 64 + 4 / 64 / 256,
            "bf16",
        ),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", 0.5 + 4 / 64, "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 1.0, "int8"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 128, "iters": 200}, "int4", 0.5 + 2.5 / 128, "bf16"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "int4", 0.5 + 4 / 128, "bf16"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Float8WeightOnlyConfig", "_data": {}}}},
            "fp8",
            1.0,
            "bf16",
        ),
        ({"quant_method": "nvfp4"}, "nvfp4", 0.5 + 1 / 16, "fp4"),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {}}},
            "fp8",
            1.0,
            "fp8",
        ),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}},
            "mxfp4",
            0.5 + 1 / 32,
            "fp8",
        ),
        ({"bits": 4, "group_size": 64}, "int4", 0.5 + 4 / 64, "bf16"),
    ],
)
def test_formats_of_other_quantisers(quantisation: Any, name: str, size: float, compute: str) -> None:
    model = quantised(LLAMA, quantisation)
    form = next(matrix.format for matrix in model.blocks[0].matrices if matrix.name == "q_proj")
    assert (form.name, form.compute) == (name, compute)
    assert form.bytes == pytest.approx(size)
    assert kinds(model)["embedding"] == (
        "int4" if "quant_method" not in quantisation and "bits" in quantisation else "bf16"
    )
    assert not any(note.startswith("not used") for note in model.notes)


def test_mlx_quantises_the_embedding_and_has_exceptions() -> None:
    """The block is `quantization` in older files, and both keys in newer ones."""
    block = {"bits": 4, "group_size": 64, "model.layers.0.self_attn.q_proj": {"bits": 8, "group_size": 64}}
    old, new = read(LLAMA | {"quantization": block}), quantised(LLAMA, block)
    for model in (old, new):
        formats = kinds(model)
        assert (formats["embedding"], formats["dense.q_proj"], formats["dense.o_proj"]) == ("int4", "int4/int8", "int4")


def test_gptqmodel_names_modules_with_other_bits() -> None:
    """`-:` is a module that is not quantised, `+:` one with its own bits (GPTQModel, dynamic)."""
    block = {
        "quant_method": "gptq", "bits": 4, "group_size": 128,
        "dynamic": {r"-:.*down_proj": {}, r"+:.*\.0\..*q_proj": {"bits": 8, "group_size": 64}},
    }  # fmt: skip
    formats = kinds(quantised(LLAMA, block))
    assert formats["dense.down_proj"] == "bf16"
    assert formats["dense.q_proj"] == "int4/int8"
    assert kinds(quantised(LLAMA, block | {"lm_head": True}))["head"] == "int4"


def test_quark_has_its_own_format_for_named_layers() -> None:
    block = {
        "quant_method": "quark", "exclude": ["lm_head", "*down_proj"], "export": {"kv_cache_group": ["*k_proj"]},
        "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"}},
        "layer_quant_config": {"*o_proj": {"weight": {"dtype": "int4", "group_size": 32}}},
    }  # fmt: skip
    model = quantised(LLAMA, block)
    formats = kinds(model)
    assert (formats["dense.down_proj"], formats["dense.o_proj"], formats["dense.q_proj"]) == ("bf16", "int4", "fp8")
    assert model.native_kv == "fp8"


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("quantisation", "words"),
    [
        ({"quant_method": "aqlm"}, ["quant_method", "aqlm", "awq"]),
        ({"quant_algo": "W3A8"}, ["quantization_config.quant_algo", "W3A8"]),
        (FP8 | {"fmt": "e5m2"}, ["fmt", "e5m2"]),
        (FP8 | {"weight_block_size": [128]}, ["weight_block_size", "[128, 128]"]),
        (FP8 | {"modules_to_not_convert": "lm_head"}, ["modules_to_not_convert", "list"]),
        ({"quant_method": "awq", "group_size": 128}, ["bits", "missing"]),
        ({"quant_method": "gptq", "bits": 16, "group_size": 128}, ["bits", "16"]),
        ({"quant_method": "gptq", "bits": 4, "group_size": "all"}, ["group_size", "all"]),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": 1}, ["lm_head"]),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": 3}, ["dynamic", "object"]),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"x": {"bits": 9}}}, ["dynamic.x.bits"]),
        ({"quant_method": "torchao", "quant_type": "fp1"}, ["quant_type", "fp1", "known"]),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp2"}}}, ["weight.dtype", "fp2"]),
        ({"quant_method": "quark"}, ["global_quant_config", "missing"]),
        ({"quant_method": "mxfp8", "weight_block_size": [128, 128]}, ["weight_block_size", "[1, 32]"]),
        ({"bits": 4, "group_size": 0}, ["group_size", "0"]),
        ({"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}, ["kv_cache_quant_algo", "NVFP4"]),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": group(4, "float", 64, None)}}, ["groups of 64"]),
        ({"quant_method": "compressed-tensors"}, ["config_groups", "missing"]),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": group(8, "float", None, 8, block_structure=[0, 128])},
            },
            ["block_structure"],
        ),
        ({"quant_method": "compressed-tensors", "config_groups": {}, "ignore": ["re:("]}, ["ignore", "expression"]),
        ("fp8", ["quantization_config", "object"]),
    ],
)
def test_what_cannot_be_read_is_named(quantisation: Any, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        quantised(LLAMA, quantisation)
    for word in ("config.json", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "name", ["org/Llama-FP8", "Llama-NVFP4", "gpt-mxfp4", "X-AWQ", "X-GPTQ-Int4", "X-w8a8", "X-INT8", "X-W4A16-G128"]
)
def test_a_name_that_promises_a_format_needs_its_block(name: str) -> None:
    with pytest.raises(SpecError, match="but there is no quantization_config") as caught:
        read(LLAMA, name)
    assert "hf_quant_config.json" in str(caught.value)
    assert quantised(LLAMA, FP8, name).name == name


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "fp8-org/Llama", "Llama-BF16", "Gawqer-7B"])
def test_other_names_do_not(name: str) -> None:
    assert read(LLAMA, name).name == name


def test_the_dtype_of_what_is_not_quantised() -> None:
    four = read(LLAMA | {"torch_dtype": "float32"})
    assert weight_bytes(four) == pytest.approx(4 * parameters(four), rel=0.02)  # vectors are kept in 16 bits
    assert read(LLAMA | {"dtype": "float16"}).embedding.format.name == "fp16"
    without = shipped("Qwen/Qwen3-8B")
    del without["torch_dtype"]
    assert read(without).embedding.format.name == "bf16"
