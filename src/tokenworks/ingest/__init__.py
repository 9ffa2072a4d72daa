"""Files that users have become specs: readers of traces and of benchmark results, and the cache of what was read."""

from tokenworks.ingest.load import FORMATS, load_trace
from tokenworks.ingest.load_benchmark import load_benchmarks

__all__ = ["FORMATS", "load_benchmarks", "load_trace"]
