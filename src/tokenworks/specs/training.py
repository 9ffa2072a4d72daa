"""A training deployment: how a training run is split over the devices of a machine, as plain data.

The names are those of Megatron-LM, torchtitan and DeepSpeed. `training_text.py` reads the short form of `--deploy`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from tokenworks.specs.deployment import Count, Width
from tokenworks.specs.provenance import Spec

TRAINING_SCHEMA = "tokenworks.training/1"

ZeroStage = Literal[0, 1, 2, 3]
ScheduleName = Literal["1f1b", "interleaved", "zero-bubble", "dualpipe", "gpipe"]
RecomputeName = Literal["none", "selective", "full"]
RecomputeModule = Literal[
    "core_attn", "layernorm", "activation", "moe_act", "mla_up_proj", "mlp", "shared_experts", "moe"
]  # fmt: skip
RECOMPUTE_MODULES: tuple[RecomputeModule, ...] = get_args(RecomputeModule)
PrecisionName = Literal["bf16", "fp16", "fp32", "fp8", "fp8-delayed", "fp8-block", "mxfp8", "nvfp4"]
StateDtype = Literal["fp32", "bf16", "fp16", "fp8"]
OptimiserName = Literal["adam", "sgd", "muon", "adafactor", "adam-8bit"]
ContextExchange = Literal["ring", "all-gather", "a2a"]
Dispatcher = Literal["alltoall", "deepep"]
MethodName = Literal["pretrain", "continued", "sft", "lora", "dpo"]


class TrainingParallel(Spec):
    """How one training run is split over tp x cp x dp x pp devices.

    The ranks of a tp group stand next to each other, then cp, dp and pp follow, as Megatron-LM orders them. The layers
    of experts have an order of their own: expert_tp, ep, the data-parallel ranks of experts, pp.

    Parameters
    ----------
    tp : tensor-parallel width of attention, dense FFN, embedding and head
    pp : pipeline stages
    dp : data-parallel ranks: each one trains on other sequences
    cp : context-parallel ranks, which divide each sequence
    ep : groups that the experts are divided over; ep x expert_tp divides tp x cp x dp
    expert_tp : devices that share one expert; printed as etp
    sequence : True if norms and residuals are divided over the tp ranks by tokens (sequence parallel)
    zero : what the data-parallel ranks divide: 0 nothing, 1 optimiser states, 2 also gradients, 3 also weights (FSDP)
    shard : data-parallel x context-parallel ranks that divide; the other ranks hold copies (HSDP).
        None: all ranks divide
    """

    tp: Width = 1
    pp: Width = 1
    dp: Width = 1
    cp: Width = 1
    ep: Width = 1
    expert_tp: Width = 1
    sequence: bool = True
    zero: ZeroStage = 1
    shard: Width | None = None

    @model_validator(mode="after")
    def _divides(self) -> TrainingParallel:
        ranks = self.tp * self.cp * self.dp
        if ranks % (self.ep * self.expert_tp):
            raise ValueError(
                f"ep={self.ep} x etp={self.expert_tp} does not divide tp x cp x dp = {ranks}: write an ep that does"
            )
        if self.shard is not None and (self.cp * self.dp) % self.shard:
            raise ValueError(f"shard={self.shard} does not divide cp x dp = {self.cp * self.dp}: write a divisor of it")
        return self

    @property
    def devices(self) -> int:
        """Devices of the run."""
        return self.tp * self.pp * self.dp * self.cp

    @property
    def expert_dp(self) -> int:
        """Copies of each expert: devices of a stage / (ep x expert_tp)."""
        return self.tp * self.cp * self.dp // (self.ep * self.expert_tp)

    def __str__(self) -> str:
        widths = {
            "tp": self.tp, "cp": self.cp, "pp": self.pp, "dp": self.dp, "ep": self.ep, "etp": self.expert_tp,
        }  # fmt: skip
        shown = [f"{name}{width}" for name, width in widths.items() if width > 1] or ["dp1"]
        sharding = [f"zero{self.zero}"] if self.dp * self.cp > 1 else []
        return " ".join([*shown, *sharding, *([f"shard{self.shard}"] if self.shard else [])])


class PipelineSchedule(Spec):
    """The order in which a pipeline stage runs its micro-batches.

    Parameters
    ----------
    name : policy, a name of `costs.pipeline.SCHEDULES`
    virtual_stages : chunks of layers that each stage holds, for the interleaved schedule
    layout : "even": all stages have as many layers; "balanced": the first and the last stage have fewer layers, so that
        embedding, head and loss do not make them the slowest. Layers that pp does not divide are always balanced
    """

    name: ScheduleName = "1f1b"
    virtual_stages: Width = 1
    layout: Literal["even", "balanced"] = "even"

    @model_validator(mode="after")
    def _interleaves(self) -> PipelineSchedule:
        if self.virtual_stages > 1 and self.name != "interleaved":
            raise ValueError(f"schedule {self.name} has one chunk per stage: write interleaved for virtual stages")
        return self


class Recompute(Spec):
    """Activations that the backward pass computes again, so that they need not be kept.

    Parameters
    ----------
    name : "none"; "selective": the modules of the list; "full": whole layers, only their input is kept
    modules : modules that "selective" computes again, by the names of Megatron-LM; activation: the activation function
        of dense FFNs
    layers : layers of each stage with full recompute; None: all layers
    last_stage : False if the last pipeline stage keeps its activations
    offload_layers : layers of each stage whose activations wait in the memory of the host
    """

    name: RecomputeName = "none"
    modules: tuple[RecomputeModule, ...] = ("core_attn",)
    layers: Annotated[int, Field(ge=0, le=10**5)] | None = None
    last_stage: bool = True
    offload_layers: Annotated[int, Field(ge=0, le=10**5)] = 0


class TrainingPrecision(Spec):
    """Number formats of a training run.

    Parameters
    ----------
    recipe : dtype of the GEMMs in the layers: bf16, fp16, fp32, or a recipe: fp8 (one scale per tensor, current),
        fp8-delayed, fp8-block (128 x 128 blocks), mxfp8, nvfp4. Router and head multiply in 16 bits
    attention : dtype of attention
    kept : dtype in which the inputs of activation functions are kept for the backward pass
    gradients : dtype in which gradients are added up over micro-batches
    reduce : dtype in which data-parallel ranks exchange gradients
    gather : dtype in which data-parallel ranks exchange weights; fp8 needs a recipe with 8-bit weights
    dispatch : dtype in which tokens go to their experts
    """

    recipe: PrecisionName = "bf16"
    attention: Literal["bf16", "fp8"] = "bf16"
    kept: Literal["bf16", "fp8"] = "bf16"
    gradients: Literal["fp32", "bf16"] = "fp32"
    reduce: Literal["fp32", "bf16"] = "fp32"
    gather: Literal["bf16", "fp8"] = "bf16"
    dispatch: Literal["bf16", "fp8"] = "bf16"


class Optimiser(Spec):
    """The optimiser and the dtypes of its states.

    Parameters
    ----------
    name : the rule: adam (two states), sgd (one: momentum), muon (one), adafactor (one row and one column of each
        matrix: no state is counted), adam-8bit (two states of one byte)
    states : dtype of the states
    master : dtype of the copy of the weights that the optimiser updates; None: it updates the 16-bit weights
    offload : share of states and copy that is kept in the memory of the host [-]
    """

    name: OptimiserName = "adam"
    states: StateDtype = "fp32"
    master: Literal["fp32", "bf16"] | None = "fp32"
    offload: Annotated[float, Field(ge=0, le=1)] = 0.0


class TrainingOverlap(Spec):
    """Communication that runs beside compute. True: the framework overlaps this kind.

    Parameters
    ----------
    dp : gradients are reduced beside the backward pass, and weights are gathered beside the forward pass
    tp : all-gather and reduce-scatter of tensor parallelism run beside their GEMMs, in slices (user buffers)
    ep : dispatch and combine of one micro-batch run beside compute of another one (1F1B overlap, DualPipe)
    pp : sends and receives of the interleaved schedule run beside compute
    cp : the ring exchange runs beside attention
    """

    dp: bool = True
    tp: bool = False
    ep: bool = False
    pp: bool = True
    cp: bool = True


class ExpertRouting(Spec):
    """How tokens reach their experts.

    Parameters
    ----------
    capacity : most tokens of an expert / mean; tokens beyond it are dropped. None: dropless
    skew : log-deviation of expert popularity; 0: forced balance. None: the number of the calibration [-]
    fused : True if activation function and quantisation run inside the grouped GEMMs
    activation : "unfused": bias, limit and activation function of experts are kernels of their own (gpt-oss)
    dispatcher : alltoall: one copy for each chosen expert; deepep: one copy for each device, forwarded inside a domain
    """

    capacity: Annotated[float, Field(ge=0.1, le=1000)] | None = None
    skew: Annotated[float, Field(ge=0, le=5)] | None = None
    fused: bool = False
    activation: Literal["fused", "unfused"] = "fused"
    dispatcher: Dispatcher = "deepep"


class Method(Spec):
    """What the run trains, and on how many tokens of each sequence.

    Parameters
    ----------
    name : pretrain, continued and sft train all weights; lora trains adapters beside frozen weights; dpo trains all
        weights on pairs of answers, and runs a frozen reference model forward
    rank : rank of the adapters of lora
    targets : parts of a layer that have adapters
    reference : where the log-probabilities of dpo come from: "loaded": the reference model runs in each step;
        "precomputed": no reference model runs
    filled : tokens of the sequences that are not padding / all tokens [-]
    """

    name: MethodName = "pretrain"
    rank: Annotated[int, Field(ge=1, le=65536)] = 16
    targets: tuple[Literal["attention", "dense", "shared", "experts"], ...] = ("attention", "dense", "shared")
    reference: Literal["loaded", "precomputed"] = "loaded"
    filled: Annotated[float, Field(gt=0, le=1)] = 1.0


class Training(Spec):
    """A training run on one machine, without model and machine.

    Parameters
    ----------
    parallel : how the run is split over the devices
    micro_batch : sequences of one rank in one forward and backward pass
    global_batch : sequences of one optimiser step, all ranks together; of dpo: answers, two of each pair
    seq_len : tokens of a sequence
    schedule : pipeline schedule
    recompute : activations that are computed again
    precision : number formats
    optimiser : optimiser and dtypes of its states
    overlap : communication that runs beside compute
    experts : how tokens reach their experts
    method : what is trained
    exchange : how context-parallel ranks share keys and values
    draft_layers : True if the multi-token-prediction layers are trained, too
    attention_kernel : "flash": the matrix of scores stays on chip; "unfused": it goes through memory
    graphs : what CUDA graphs capture, so that the host does not launch each kernel: none; partial: all but the routed
        experts; full: all layers
    document : mean length of the documents in a sequence, if attention does not cross them; None: it does [token]
    """

    parallel: TrainingParallel = TrainingParallel()
    micro_batch: Count = 1
    global_batch: Count = 1
    seq_len: Count = 4096
    schedule: PipelineSchedule = PipelineSchedule()
    recompute: Recompute = Recompute()
    precision: TrainingPrecision = TrainingPrecision()
    optimiser: Optimiser = Optimiser()
    overlap: TrainingOverlap = TrainingOverlap()
    experts: ExpertRouting = ExpertRouting()
    method: Method = Method()
    exchange: ContextExchange = "ring"
    draft_layers: bool = False
    attention_kernel: Literal["flash", "unfused"] = "flash"
    graphs: Literal["none", "partial", "full"] = "none"
    document: Count | None = None

    @model_validator(mode="after")
    def _divides(self) -> Training:
        lane = self.micro_batch * self.parallel.dp
        if self.global_batch % lane:
            raise ValueError(
                f"global_batch={self.global_batch} is not a multiple of micro_batch x dp = {lane}: write a multiple"
            )
        return self

    @property
    def micro_batches(self) -> int:
        """Micro-batches of each rank in one optimiser step [count]."""
        return self.global_batch // (self.micro_batch * self.parallel.dp)

    @property
    def tokens(self) -> int:
        """Tokens of one optimiser step [token]."""
        return self.global_batch * self.seq_len

    def __str__(self) -> str:
        chunks = f"x{self.schedule.virtual_stages}" if self.schedule.virtual_stages > 1 else ""
        pipeline = [f"{self.schedule.name}{chunks}"] if self.parallel.pp > 1 else []
        again = [f"recompute {self.recompute.name}"] if self.recompute.name != "none" else []
        batch = f"micro-batch {self.micro_batch}, batch {self.global_batch:,} x {self.seq_len:,}"
        return ", ".join([f"[{self.parallel}]", batch, *pipeline, *again, self.precision.recipe])


class TrainingDeployment(Spec):
    """A model that is trained on a machine.

    Parameters
    ----------
    model : catalog id, path of a config.json, or id in the local Hugging Face cache
    system : machine, as `--on` takes it
    training : split, batch, precision and all other settings of the run
    """

    model: str
    system: str
    training: Training
