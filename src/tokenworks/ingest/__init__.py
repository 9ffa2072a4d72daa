"""Files that users have become traces or benchmarks: readers, their cache, generators, transforms and statistics."""

from tokenworks.ingest.generate import from_workload
from tokenworks.ingest.load import FORMATS, load_trace
from tokenworks.ingest.load_benchmark import load_benchmarks
from tokenworks.ingest.statistics import statistics
from tokenworks.ingest.transform import limit, reblock, replicate, scale, stream

__all__ = [
    "FORMATS", "from_workload", "limit", "load_benchmarks", "load_trace", "reblock", "replicate", "scale", "statistics",
    "stream",
]  # fmt: skip
