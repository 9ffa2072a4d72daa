"""Weights of a training run on one device of a pipeline stage, as numbers of elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenworks.arrays import FloatArray, ceil_div
from tokenworks.costs.kernels import kernels
from tokenworks.costs.moe import local_experts
from tokenworks.costs.train_plan import TrainPlans
from tokenworks.specs.model import Block, Model


@dataclass(frozen=True, slots=True)
class StageWeights:
    """Weights on one device of a stage [count].

    Parameters
    ----------
    dense : weights that all data-parallel ranks hold
    experts : weights of routed experts, which only some ranks hold
    """

    dense: FloatArray
    experts: FloatArray

    @property
    def total(self) -> FloatArray:
        """All weights [count]."""
        return self.dense + self.experts


def stage_layers(layers: int, pp: FloatArray, stage: FloatArray) -> FloatArray:
    """Layers of a pipeline stage. If pp does not divide them, the last stage has one layer less, then the first one.

    These stages also hold head and embedding (Llama 3, arXiv:2407.21783, section 3.3.2).

    Parameters
    ----------
    layers : L, layers of the model [count]
    pp : pipeline stages [count]
    stage : position of the stage, from 0 [count]
    """
    full = ceil_div(layers, pp)
    short = full * pp - layers
    fewer = ((stage == pp - 1) & (short >= 1)) | ((stage == 0) & (short >= 2)) | (short > pp - stage)
    return full - 1 * fewer * (pp > 1)


def stage_weights(model: Model, plans: TrainPlans, stage: FloatArray) -> StageWeights:
    """Weights of a pipeline stage. Each layer counts as the mean layer of the model.

    Parameters
    ----------
    model : the model
    plans : widths
    stage : position of the stage, from 0 [count]
    """
    held = [(_layer(block, model, plans), block.count) for block in model.blocks]
    share = stage_layers(model.layers, plans.pp, stage) / model.layers
    dense = share * sum((item.dense * count for item, count in held), 0.0)
    experts = share * sum((item.experts * count for item, count in held), 0.0)
    first, last = stage == 0, stage == plans.pp - 1
    embedding = model.embedding.parameters / plans.tp
    head = embedding if model.head is None else model.head.parameters / plans.tp
    # A tied embedding is one matrix on a single stage, and has a copy on the last stage of a pipeline.
    ends = first * embedding + last * head * (1.0 if model.head else plans.pp > 1)
    drafts = [(_layer(block, model, plans), block.count) for block in model.draft] if plans.policy.draft_layers else []
    added_dense = sum((item.dense * count for item, count in drafts), 0.0)
    added_experts = sum((item.experts * count for item, count in drafts), 0.0)
    return StageWeights(dense + ends + last * added_dense + model.vectors, experts + last * added_experts)


def adapter_weights(model: Model, plans: TrainPlans, stage: FloatArray) -> FloatArray:
    """Weights of the adapters of LoRA on a pipeline stage: rank x (inputs + outputs) of each chosen matrix [count].

    Parameters
    ----------
    model : the model
    plans : widths and method
    stage : position of the stage, from 0 [count]
    """
    method, stack = plans.policy.method, kernels(model.blocks, model.kv_heads)
    total: FloatArray = 0.0
    for gemm, layers in stack.gemms:
        if gemm.part in method.targets:
            outputs, inputs = gemm.shape(plans.tp)
            total = total + layers * method.rank * (outputs + inputs)
    return total * stage_layers(model.layers, plans.pp, stage) / model.layers


def _layer(block: Block, model: Model, plans: TrainPlans) -> StageWeights:
    """Weights of one layer on one device."""
    kv_heads = max((scan.heads for scan in block.scans), default=model.kv_heads)
    dense: FloatArray = block.vectors + plans.tp * 0.0
    experts: FloatArray = plans.tp * 0.0
    for matrix in block.matrices:
        if block.experts and matrix.part == "experts":
            local = local_experts(block.experts.count, 0, plans.ep)
            experts = experts + matrix.parameters / matrix.copies * local / plans.expert_tp
        elif matrix.split == "none":
            dense = dense + matrix.parameters
        else:
            over = np.minimum(plans.tp, kv_heads) if matrix.split == "kv" else plans.tp
            dense = dense + matrix.parameters / over
    return StageWeights(dense, experts)
