"""Benchmarks of the engine itself: what it costs beside the work it schedules, and what it survives."""
