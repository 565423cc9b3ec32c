"""Tabular benchmarks, and the evaluator that looks architectures up in them."""
