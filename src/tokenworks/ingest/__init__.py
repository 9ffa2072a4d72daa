"""Readers of users' files (traces and benchmark results), and the cache of traces that were read."""

from tokenworks.ingest.load import FORMATS, load_trace
from tokenworks.ingest.load_benchmark import load_benchmarks, read_benchmarks

__all__ = ["FORMATS", "load_benchmarks", "load_trace", "read_benchmarks"]
