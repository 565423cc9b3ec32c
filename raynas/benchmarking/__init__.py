"""Searchers on tabular benchmarks, simulated on a virtual clock."""
