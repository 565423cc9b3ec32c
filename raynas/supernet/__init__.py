"""The shared supernet: one long-lived actor, and its client."""
