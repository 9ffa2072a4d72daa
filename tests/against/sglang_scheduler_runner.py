"""Plays one case with SGLang's own scheduler on a CPU: a job as JSON on stdin, the outcome as JSON in a file.

This program runs in an environment with SGLang 0.5.23 and imports nothing of tokenworks. No weights are loaded and no
forward pass is computed. Hooks on five methods of SGLang make the tokens and advance a logical clock. These methods are
internal to SGLang, so the version is pinned (sglang_scheduler_requirements.txt).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
import tempfile
import types
from array import array
from importlib.metadata import version
from pathlib import Path
from typing import Any

VOCABULARY = 1 << 16
OUTPUT_TOKENS = 60_000
"""Output tokens of request i are all `OUTPUT_TOKENS` + i, so that no two requests share an output."""
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
    "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64,
    "max_position_embeddings": 1 << 17, "vocab_size": VOCABULARY, "torch_dtype": "bfloat16",
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
RECEIVE = "sglang.srt.managers.scheduler_components.request_receiver.SchedulerRequestReceiver.recv_requests"


class Absent:
    """Stands for a name of `sgl_kernel` that the import of SGLang reads and no step calls."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __call__(self, *_arguments: object, **_named: object) -> object:
        raise NotImplementedError(f"{self._name} is only a stand-in")


class KernelModule(types.ModuleType):
    """A stand-in for a module of `sgl_kernel`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return write_slots if name == "assign_req_to_token_pool_cpu" else Absent(f"{self.__name__}.{name}")


class KernelFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for `sgl_kernel`, whose wheel needs a GPU."""

    def find_spec(self, name: str, _path: Any, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Answer for `sgl_kernel` and its submodules only."""
        ours = name.split(".", maxsplit=1)[0] == "sgl_kernel"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if ours else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """Create an empty stand-in."""
        return KernelModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Run nothing: the stand-in has no code."""


def write_slots(rows: Any, table: Any, starts: Any, ends: Any, slots: Any, _width: int) -> None:
    """Write the cache slots of new tokens into the table of each request (the only kernel that the scheduler calls)."""
    at = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        table[row, start:end] = slots[at : at + end - start].to(table.dtype)
        at += end - start


class Run:
    """The requests of a job, the logical clock, and what happened to each request."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.now, self.sent, self.steps = job, 0.0, 0, 0
        count = len(job["arrival_s"])
        self.first: list[float | None] = [None] * count
        self.end: list[float | None] = [None] * count
        self.hits: list[int | None] = [None] * count
        self.admitted: list[float | None] = [None] * count
        self.retracted = [0] * count

    def arrivals(self, *_receiver: Any, **_named: Any) -> list[Any]:
        """Requests that have arrived by now (replaces `recv_requests`)."""
        io = importlib.import_module("sglang.srt.managers.io_struct")
        sampling = importlib.import_module("sglang.srt.sampling.sampling_params")
        job, new = self.job, []
        while self.sent < len(job["arrival_s"]) and job["arrival_s"][self.sent] <= self.now:
            i = self.sent
            params = sampling.SamplingParams(max_new_tokens=job["output_tokens"][i], temperature=0.0)
            params.normalize(None)
            new.append(io.TokenizedGenerateReqInput(
                rid=str(i), input_text=None, input_ids=array("q", job["prompts"][i]), input_embeds=None,
                mm_inputs=None, token_type_ids=None, sampling_params=params, return_logprob=False,
                logprob_start_len=-1, top_logprobs_num=0, token_ids_logprob=None, stream=False,
            ))  # fmt: skip
            self.sent += 1
        return new

    def seconds(self, batch: Any) -> float:
        """Time of a step on the clock of the job [s]."""
        job, prefill, context = self.job, 0, 0
        if batch.forward_mode.is_extend():
            prefill = sum(batch.extend_lens)
        else:
            context = int(batch.seq_lens_cpu.sum())
        return float(job["step_s"] + job["prefill_s"] * prefill + job["context_s"] * context)

    def begin_step(self, original: Any, scheduler: Any, batch: Any, *rest: Any, **named: Any) -> Any:
        """Note the hits of first admissions and advance the clock (around `run_batch`)."""
        if batch.forward_mode.is_extend():
            for request, prefix in zip(batch.reqs, batch.prefix_lens, strict=True):
                i = int(request.rid)
                if self.hits[i] is None:
                    self.hits[i], self.admitted[i] = int(prefix), self.now
        self.now += self.seconds(batch)
        self.steps += 1
        return original(scheduler, batch, *rest, **named)

    def forward(self, _worker: Any, batch: Any, *_rest: Any, **_named: Any) -> Any:
        """Tokens without a forward pass (replaces `forward_batch_generation`)."""
        torch = importlib.import_module("torch")
        utils = importlib.import_module("sglang.srt.managers.utils")
        tokens = torch.tensor([OUTPUT_TOKENS + int(request.rid) for request in batch.reqs], dtype=torch.int64)
        return utils.GenerationBatchResult(next_token_ids=tokens, can_run_cuda_graph=False)

    def end_step(self, original: Any, scheduler: Any, batch: Any, *rest: Any, **named: Any) -> Any:
        """Note times of first and last tokens (around `process_batch_result`)."""
        requests = list(batch.reqs)
        result = original(scheduler, batch, *rest, **named)
        for request in requests:
            i = int(request.rid)
            if self.first[i] is None and len(request.output_ids):
                self.first[i] = self.now
            if self.end[i] is None and request.finished():
                self.end[i] = self.now
                self.retracted[i] = int(request.retraction_count)
        return result

    def idle(self, original: Any, scheduler: Any, *rest: Any, **named: Any) -> Any:
        """Jump to the next arrival, or stop (around `on_idle`)."""
        result = original(scheduler, *rest, **named)
        if self.sent < len(self.job["arrival_s"]):
            self.now = max(self.now, self.job["arrival_s"][self.sent])
        else:
            scheduler.gracefully_exit = True
        return result


def play(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Run SGLang's scheduler until all requests of the job are complete."""
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    os.environ["SGLANG_INIT_NEW_TOKEN_RATIO"] = str(job["reserve"])
    sys.meta_path.insert(0, KernelFinder())
    Path(folder, "config.json").write_text(json.dumps(CONFIG))
    hooks = importlib.import_module("sglang.srt.plugins.hook_registry")
    arguments = importlib.import_module("sglang.srt.server_args")
    context = importlib.import_module("sglang.srt.runtime_context")
    scheduler_module = importlib.import_module("sglang.srt.managers.scheduler")
    run, kind = Run(job), hooks.HookType
    scheduler = "sglang.srt.managers.scheduler.Scheduler."
    for target, hook, how in (
        ("sglang.srt.managers.tp_worker.TpModelWorker.forward_batch_generation", run.forward, kind.REPLACE),
        (RECEIVE, run.arrivals, kind.REPLACE),
        (scheduler + "run_batch", run.begin_step, kind.AROUND),
        (scheduler + "process_batch_result", run.end_step, kind.AROUND),
        (scheduler + "on_idle", run.idle, kind.AROUND),
    ):
        hooks.HookRegistry.register(target, lambda *a, _hook=hook, **k: _hook(*a, **k), how)
    hooks.HookRegistry.apply_hooks()
    server = arguments.ServerArgs(
        model_path=folder, device="cpu", load_format="dummy", skip_tokenizer_init=True,
        attention_backend="torch_native", sampling_backend="pytorch", grammar_backend="none",
        disable_overlap_schedule=True, page_size=job["page_tokens"], max_total_tokens=job["kv_tokens"],
        chunked_prefill_size=job["chunk_tokens"], max_running_requests=job["max_sequences"],
        log_level="error", watchdog_timeout=3600,
    )  # fmt: skip
    context.publish(server, role="scheduler", ranks=context.SpawnRanks(world_rank=0, dp_rank=None, gpu_id=0))
    ports = arguments.PortArgs.init_new(server)
    live = scheduler_module.Scheduler(server, ports)
    pool = int(live.max_total_num_tokens)
    live.run_event_loop()
    return {
        "version": version("sglang"), "kv_tokens": pool, "steps": run.steps, "admitted_s": run.admitted,
        "first_s": run.first, "end_s": run.end, "hit_tokens": run.hits, "retractions": run.retracted,
    }  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        outcome = play(json.loads(sys.stdin.read()), folder)
    Path(sys.argv[1]).write_text(json.dumps(outcome))
    os._exit(0)  # SGLang leaves threads behind
