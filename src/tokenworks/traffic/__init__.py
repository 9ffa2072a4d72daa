"""From workloads to requests: generators, transforms of traces, statistics of traces, and reuse of prefixes."""

from tokenworks.traffic.generate import from_workload
from tokenworks.traffic.statistics import statistics
from tokenworks.traffic.transform import limit, reblock, replicate, scale, stream

__all__ = ["from_workload", "limit", "reblock", "replicate", "scale", "statistics", "stream"]
