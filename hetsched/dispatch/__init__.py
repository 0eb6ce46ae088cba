"""Deciding where experts run: the problem, the guard's own arithmetic, the solver protocol, placement."""
