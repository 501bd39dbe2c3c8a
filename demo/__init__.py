"""The main job, shown and checked on a real API server: `make demo`."""
