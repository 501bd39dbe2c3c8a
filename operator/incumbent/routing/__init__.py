"""A Service that reaches the leader: its slices (`endpoint_slices`, pure) and their `writer`."""
