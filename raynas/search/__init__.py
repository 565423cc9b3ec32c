"""A search: searcher, scheduler and history joined."""
