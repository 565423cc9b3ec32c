"""The record of a run: folder, journal, history, results."""
