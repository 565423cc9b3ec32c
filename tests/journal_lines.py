"""The journal of a run as the plain data that are in its lines."""

from raynas.record import journal


def read_events(folder):
    return [event.to_json() for event in journal.read_events(folder)]
