"""ServerMetrics in the text format of Prometheus: names, labels and buckets of vLLM or SGLang, and `tokenworks_*`."""

from __future__ import annotations

import math
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from tokenworks.arrays import Floats, Ints
from tokenworks.engine.progress import Levels
from tokenworks.engine.types import Status
from tokenworks.serving.driver import HandedOver, Job
from tokenworks.specs.slo import Slo

ApiName = Literal["openai", "sglang"]

TURNS, TOKENS = 32, 4096
"""Turns of the driver that are counted at once, or fewer turns with so many tokens: one by one, they would take a tenth
of the time of a token."""
LEAST_LATE = 100
"""Tokens that `ServerMetrics.lateness` needs [count]."""
RECENT = 256
"""Requests whose times `ServerMetrics.recent` keeps [count]."""
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
_SHORT = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_GAP = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_LONG = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_SGLANG_SHORT = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
_SGLANG_GAP = (
    0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025, 0.030, 0.035, 0.040, 0.060, 0.080, 0.1, 0.2, 0.4, 0.6, 0.8,
    1, 2, 4, 6, 8,
)  # fmt: skip
_STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_LATE = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)

HISTOGRAMS: dict[ApiName, dict[str, tuple[str, Sequence[float], str]]] = {
    "openai": {
        "prompt": ("vllm:request_prompt_tokens", _TOKENS, "Prompt tokens of a request."),
        "generation": ("vllm:request_generation_tokens", _TOKENS, "Output tokens of a request."),
        "most": ("vllm:request_max_num_generation_tokens", _TOKENS, "Largest output of the choices of a request."),
        "params_n": ("vllm:request_params_n", (1, 2, 5, 10, 20), "Parameter n of a request."),
        "params_max": ("vllm:request_params_max_tokens", _TOKENS, "Parameter max_tokens of a request."),
        "ttft": ("vllm:time_to_first_token_seconds", _SHORT, "Time to first token."),
        "itl": ("vllm:inter_token_latency_seconds", _GAP, "Time between tokens."),
        "tpot": ("vllm:request_time_per_output_token_seconds", _GAP, "Mean time per output token of a request."),
        "e2el": ("vllm:e2e_request_latency_seconds", _LONG, "Time from the arrival of a request to its last token."),
        "queue": ("vllm:request_queue_time_seconds", _LONG, "Time of a request in the queue."),
        "inference": ("vllm:request_inference_time_seconds", _LONG, "Time of a request from admission to its end."),
        "prefill": ("vllm:request_prefill_time_seconds", _LONG, "Time of a request from admission to the first token."),
        "decode": ("vllm:request_decode_time_seconds", _LONG, "Time of a request from first to last token."),
        "iteration": ("vllm:iteration_tokens_total", _STEP, "Prompt and output tokens of a step."),
        "computed": ("vllm:request_prefill_kv_computed_tokens", _TOKENS, "Prompt tokens that no cache served."),
    },
    "sglang": {
        "ttft": ("sglang:time_to_first_token_seconds", _SGLANG_SHORT, "Time to first token."),
        "itl": ("sglang:inter_token_latency_seconds", _SGLANG_GAP, "Time between tokens."),
        "e2el": (
            "sglang:e2e_request_latency_seconds", (*_SGLANG_SHORT, 600, 1200, 1800),
            "Time from the arrival of a request to its last token.",
        ),
        "queue": ("sglang:queue_time_seconds", _SGLANG_SHORT, "Time of a request in the queue."),
    },
}  # fmt: skip
"""Key -> name, upper bounds of the buckets and help, for each API. vLLM: as in the /metrics of vLLM 0.32. SGLang: as in
its collector."""


class Histogram:
    """A histogram for each engine.

    Parameters
    ----------
    bounds : upper bounds of the buckets, without infinity
    engines : number of engines
    """

    def __init__(self, bounds: Sequence[float], engines: int) -> None:
        self.bounds = list(map(float, bounds))
        self._edges = np.array(self.bounds)
        self.counts = np.zeros((engines, len(bounds) + 1), np.int64)
        self._flat = self.counts.reshape(-1)  # the same memory: NumPy adds at one index much faster than at two
        self.sums = np.zeros(engines)
        self._forms: dict[tuple[str, ...], str] = {}

    def add(self, engine: int, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[engine, bisect_left(self.bounds, value)] += times
        self.sums[engine] += value * times

    def add_all(self, engines: Ints, values: Floats, times: Ints | int = 1) -> None:
        """Count many values, each `times` times."""
        np.add.at(self._flat, engines * self.counts.shape[1] + self._edges.searchsorted(values), times)
        np.add.at(self.sums, engines, values * times)

    def text(self, name: str, labels: Sequence[str], engines: Sequence[int] = (0,)) -> str:
        """The histogram in the text format. The text without its numbers is made once.

        Parameters
        ----------
        name : name of the metric
        labels : labels of each engine
        engines : the engines
        """
        chosen = list(engines)
        form = self._forms.get(key := (name, *labels))
        if form is None:
            form = self._forms[key] = self._form(name, labels)
        values: list[float] = []
        for counts, total in zip(
            np.cumsum(self.counts[chosen], axis=1).tolist(), self.sums[chosen].tolist(), strict=True
        ):
            values += (*counts, counts[-1], total)
        return form % tuple(values)

    def _form(self, name: str, labels: Sequence[str]) -> str:
        """The text with %d and %r in place of numbers."""
        lines = list[str]()
        for own in (label.replace("%", "%%") for label in labels):
            comma = "," if own else ""
            lines += [f'{name}_bucket{{{own}{comma}le="{end}"}} %d.0' for end in (*self.bounds, "+Inf")]
            lines += [f"{name}_count{{{own}}} %d.0", f"{name}_sum{{{own}}} %r"]
        return "\n".join(lines)


@dataclass(frozen=True)
class ServiceTerms:
    """What counts as an effective token, and what a device costs.

    Parameters
    ----------
    slo : bounds of TTFT and mean TPOT
    devices : devices of the deployment [count]
    usd_per_device_hour : price of a device; None: not given [USD/h]
    """

    slo: Slo
    devices: int
    usd_per_device_hour: float | None = None


class ServerMetrics:
    """All counters of the server.

    Parameters
    ----------
    api : API whose names the metrics have
    model : label `model_name`
    engines : ranks of all pools: label `engine`
    terms : SLO and price
    request_s : time of client, HTTP and tokeniser that the driver waits for [s]
    """

    def __init__(self, api: ApiName, model: str, engines: int, terms: ServiceTerms, request_s: float) -> None:
        self.api, self.model, self.engines, self.terms, self.request_s = api, model, engines, terms, request_s
        self.histograms = {key: Histogram(bounds, engines) for key, (_, bounds, _) in HISTOGRAMS[api].items()}
        self.late = Histogram(_LATE, 1)
        self.counters = {key: np.zeros(engines, np.int64) for key in ("prompt", "cached")}
        self._generated = np.zeros(engines, np.int64)
        self._late_before = (0, 0.0)
        self._seen, self._unsettled = list[HandedOver](), 0
        self._work: list[tuple[Ints, Ints]] = [(np.zeros(engines, np.int64), np.zeros(engines, np.int64))]
        self.reasons = {reason: np.zeros(engines, np.int64) for reason in ("stop", "length", "abort", "error")}
        self.events: dict[str, int] = {}
        self.responses: dict[tuple[str, str, str], int] = {}
        self.effective = self.missed = self.kept = self.answered_tokens = 0
        self.rejections = np.zeros(engines, np.int64)
        self.recent: deque[tuple[float, float]] = deque(maxlen=RECENT)
        """TTFT and TPOT of the latest requests [s, s]."""
        self.started = time.time()

    # ---- what happens

    def count(self, what: str) -> None:
        """Count an event of a connection, such as "client_left"."""
        self.events[what] = self.events.get(what, 0) + 1

    def answered(self, handler: str, method: str, status: int) -> None:
        """Count a request by its handler, method and class of status."""
        key = (handler, method, f"{status // 100}xx")
        self.responses[key] = self.responses.get(key, 0) + 1

    def observe(self, seen: HandedOver) -> None:
        """Keep the tokens of a turn; those of some turns are counted at once."""
        self._seen.append(HandedOver(seen.ranks.copy(), seen.gaps.copy(), seen.lates, seen.more.copy()))
        self._unsettled += len(seen.lates)
        if len(self._seen) >= TURNS or self._unsettled >= TOKENS:
            self.settle()

    def stepped(self, steps: Ints, tokens: Ints) -> None:
        """Keep the work up to a turn.

        Parameters
        ----------
        steps : steps of the instance of each rank so far
        tokens : prompt and output tokens of each rank in them
        """
        self._work.append((steps, tokens))

    def settle(self) -> None:
        """Count the turns that were kept."""
        if self._seen:
            ranks, gaps, lates, more = (
                np.concatenate([getattr(seen, name) for seen in self._seen])
                for name in ("ranks", "gaps", "lates", "more")
            )
            later = ~np.isnan(gaps)
            if "itl" in self.histograms:
                self.histograms["itl"].add_all(ranks[later], gaps[later])
            np.add.at(self._generated, ranks, more)
            self.late.add_all(np.zeros(len(lates), np.int64), lates)
        if len(self._work) > 1 and "iteration" in self.histograms:
            steps, tokens = (np.diff(np.array(some), axis=0) for some in zip(*self._work, strict=True))
            turns, ranks = np.nonzero(steps > 0)
            made = steps[turns, ranks]
            self.histograms["iteration"].add_all(ranks, tokens[turns, ranks] / made, made)
        self._seen, self._unsettled, self._work = [], 0, self._work[-1:]

    def lateness(self) -> float | None:
        """Mean lateness of the tokens since the last call [s]; None: there were few."""
        self.settle()
        count, total = int(self.late.counts.sum()), float(self.late.sums[0])
        before, earlier = self._late_before
        if count - before < LEAST_LATE:
            return None
        self._late_before = (count, total)
        return (total - earlier) / (count - before)

    def generated(self) -> Ints:
        """Output tokens of each engine so far."""
        self.settle()
        return self._generated

    def first(self, job: Job) -> None:
        """Count the prompt of a job that has its first token."""
        self.counters["prompt"][job.rank] += job.input_tokens

    def asked(self, n: int, max_tokens: int | None, engine: int = 0) -> None:
        """Count the parameters of a request."""
        if "params_n" in self.histograms:
            self.histograms["params_n"].add(engine, n)
            if max_tokens is not None:
                self.histograms["params_max"].add(engine, max_tokens)

    @property
    def rejected(self) -> int:
        """Requests that were refused by the engine."""
        return int(self.rejections.sum())

    def over(self, job: Job, status: Status) -> None:
        """Count a choice that has ended."""
        engine = _engine(job)
        reason = "abort" if status == Status.CANCELLED else "error"
        if status == Status.COMPLETED:
            reason = "stop" if job.stopped else "length"
        elif status == Status.REJECTED:
            self.rejections[engine] += 1
            return
        self.reasons[reason][engine] += 1
        if math.isnan(job.first_s):
            return
        self.counters["cached"][engine] += job.cached_tokens
        if status == Status.COMPLETED:
            self._completed(job, engine)

    def _completed(self, job: Job, engine: int) -> None:
        ttft, e2el = job.first_s - job.received_s, job.last_s - job.received_s
        decode = job.last_s - job.first_s
        tpot = decode / (job.output_tokens - 1) if job.output_tokens > 1 else 0.0
        admitted = min(self.request_s + job.queued_s, ttft)
        values = {
            "prompt": job.input_tokens, "generation": job.output_tokens, "most": job.output_tokens, "ttft": ttft,
            "e2el": e2el, "queue": job.queued_s, "inference": e2el - admitted, "prefill": ttft - admitted,
            "decode": decode, "computed": job.input_tokens - job.cached_tokens,
        }  # fmt: skip
        if job.output_tokens > 1:
            values["tpot"] = tpot
        for key, value in values.items():
            if key in self.histograms:
                self.histograms[key].add(engine, value)
        slo = self.terms.slo
        kept = (slo.ttft is None or ttft <= slo.ttft.value) and (slo.tpot is None or tpot <= slo.tpot.value)
        self.kept += kept
        self.missed += not kept
        self.effective += job.output_tokens if kept else 0
        self.answered_tokens += job.output_tokens
        self.recent.append((ttft, tpot))

    # ---- text format

    def lines(self, levels: Levels, ranks: Sequence[int]) -> Iterator[str]:
        """The lines of the metrics that engines have, some at a time. They are written when they are asked for.

        Parameters
        ----------
        levels : requests and blocks of each rank
        ranks : the ranks, which get the labels engine="0" and so on
        """
        self.settle()
        chosen = list(ranks)
        engine = [f'engine="{i}",model_name="{self.model}"' for i in range(len(chosen))]
        yield from (_vllm if self.api == "openai" else _sglang)(self, levels.of(chosen), chosen, engine)
        for key, (name, _, text) in HISTOGRAMS[self.api].items():
            yield from _about(name, "histogram", text)
            yield self.histograms[key].text(name, engine, chosen)

    def own_lines(self, seconds: float) -> Iterator[str]:
        """The lines of the metrics that the server has once.

        Parameters
        ----------
        seconds : time of the logical clock [s]
        """
        self.settle()
        yield from self._own(seconds)
        yield from self._process()

    def _own(self, seconds: float) -> Iterable[str]:
        """ServerMetrics with names of our own."""
        price = self.terms.usd_per_device_hour
        values: dict[str, tuple[str, str, Mapping[str, float]]] = {
            "tokenworks_effective_tokens_total": (
                "counter", "Output tokens of requests that kept the SLO.", {"": self.effective}),
            "tokenworks_requests_by_slo_total": (
                "counter", "Completed requests by whether they kept the SLO.",
                {'slo="kept"': self.kept, 'slo="missed"': self.missed}),
            "tokenworks_simulated_seconds_total": ("counter", "Time of the logical clock.", {"": seconds}),
            "tokenworks_connection_events_total": (
                "counter", "Events of connections: clients that left, bad requests, slow readers and so on.",
                {f'event="{name}"': count for name, count in sorted(self.events.items())}),
        }  # fmt: skip
        if price is not None:
            cost = price * self.terms.devices * seconds / 3600
            values["tokenworks_cost_usd_total"] = ("counter", "Cost of the devices so far.", {"": cost})
        for name, (kind, text, series) in values.items():
            yield from _about(name, kind, text)
            for labels, value in series.items():
                yield f"{name}{{{labels}}} {float(value)!r}" if labels else f"{name} {float(value)!r}"
        yield from _about(
            "tokenworks_token_lateness_seconds", "histogram", "Delay of tokens behind their simulated time."
        )
        yield self.late.text("tokenworks_token_lateness_seconds", [""])

    def _process(self) -> Iterable[str]:
        """ServerMetrics of the process and of HTTP, with the names that vLLM's have."""
        yield from _about("http_requests_total", "counter", "Requests by handler, method and status.")
        for (handler, method, status), count in sorted(self.responses.items()):
            yield f'http_requests_total{{handler="{handler}",method="{method}",status="{status}"}} {count}.0'
        yield from _about("process_start_time_seconds", "gauge", "Start of the process.")
        yield f"process_start_time_seconds {self.started!r}"
        yield from _about("process_resident_memory_bytes", "gauge", "Memory of the process.")
        yield f"process_resident_memory_bytes {resident_bytes()}.0"
        yield from _about("process_cpu_seconds_total", "counter", "User and system CPU time of the process.")
        yield f"process_cpu_seconds_total {time.process_time()!r}"


def resident_bytes() -> int:
    """Memory of this process; its peak where the system does not tell the present value [byte]."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def _about(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _each(name: str, kind: str, text: str, labels: Sequence[str], values: ArrayLike) -> Iterable[str]:
    """Lines of a metric with one value for each engine."""
    yield from _about(name, kind, text)
    pairs = zip(labels, np.asarray(values, float).tolist(), strict=True)
    yield "\n".join([f"{name}{{{own}}} {value!r}" for own, value in pairs])


def _engine(job: Job) -> int:
    """The rank that a job counts for: the one that took it, else one of those that it is pinned to."""
    if job.rank >= 0:
        return job.rank
    return job.pin - 1 if job.pin > 0 else max(-1 - job.pin, 0)


def _vllm(metrics: ServerMetrics, levels: Levels, ranks: list[int], engine: Sequence[str]) -> Iterable[str]:
    """Gauges and counters with vLLM's names."""
    counters, reasons_of = metrics.counters, {why: counts[ranks] for why, counts in metrics.reasons.items()}
    used = levels.kv_used / np.maximum(levels.kv_total, 1)
    yield from _each("vllm:num_requests_running", "gauge", "Requests that run.", engine, levels.running)
    yield from _each("vllm:num_requests_waiting", "gauge", "Requests that wait.", engine, levels.waiting)
    reasons = [f'{own},reason="{why}"' for own in engine for why in ("capacity", "deferred")]
    values = [value for waiting in levels.waiting for value in (waiting, 0)]
    yield from _each("vllm:num_requests_waiting_by_reason", "gauge", "Requests that wait, by reason.", reasons, values)
    yield from _each("vllm:kv_cache_usage_perc", "gauge", "KV blocks in use; 1 is all.", engine, used)
    totals = (
        (
            "vllm:prefix_cache_queries_total",
            "Prompt tokens that were looked up in the prefix cache.",
            levels.query_tokens,
        ),
        ("vllm:prefix_cache_hits_total", "Prompt tokens that the prefix cache served.", levels.hit_tokens),
        ("vllm:num_preemptions_total", "Preemptions.", levels.preemptions),
        ("vllm:prompt_tokens_total", "Prompt tokens of requests with a first token.", counters["prompt"][ranks]),
        ("vllm:prompt_tokens_cached_total", "Prompt tokens from a cache.", counters["cached"][ranks]),
        ("vllm:generation_tokens_total", "Output tokens.", metrics.generated()[ranks]),
    )
    for name, text, counts in totals:
        yield from _each(name, "counter", text, engine, counts)
    labels = [f'{own},finished_reason="{reason}"' for reason in reasons_of for own in engine]
    ends = [float(count) for counts in reasons_of.values() for count in counts]
    yield from _each("vllm:request_success_total", "counter", "Ended requests by finish reason.", labels, ends)
    labels = [f'model_name="{metrics.model}",reason="max_num_queued_reqs"']
    yield from _each(
        "vllm:admission_rejections_total", "counter", "Rejected requests.", labels, [metrics.rejections[ranks].sum()]
    )


def _sglang(metrics: ServerMetrics, levels: Levels, ranks: list[int], engine: Sequence[str]) -> Iterable[str]:
    """Gauges and counters with SGLang's names."""
    counters, ends = metrics.counters, {why: counts[ranks] for why, counts in metrics.reasons.items()}
    used = levels.kv_used / np.maximum(levels.kv_total, 1)
    hits = levels.hit_tokens / np.maximum(levels.query_tokens, 1)
    yield from _each("sglang:num_running_reqs", "gauge", "Requests that run.", engine, levels.running)
    yield from _each("sglang:num_queue_reqs", "gauge", "Requests that wait.", engine, levels.waiting)
    yield from _each("sglang:token_usage", "gauge", "Share of the KV cache in use.", engine, used)
    yield from _each("sglang:cache_hit_rate", "gauge", "Share of prompt tokens from the cache.", engine, hits)
    totals = (
        ("sglang:prompt_tokens_total", "Prompt tokens of requests with a first token.", counters["prompt"][ranks]),
        ("sglang:generation_tokens_total", "Output tokens.", metrics.generated()[ranks]),
        ("sglang:cached_tokens_total", "Prompt tokens from a cache.", counters["cached"][ranks]),
        ("sglang:num_requests_total", "Ended requests.", sum(ends.values())),
        ("sglang:num_aborted_requests_total", "Requests whose client left.", ends["abort"]),
    )
    for name, text, counts in totals:
        yield from _each(name, "counter", text, engine, np.broadcast_to(counts, len(engine)))
