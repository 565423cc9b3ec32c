"""Drivers carry out a search: Tune trials, batches, a supernet."""
