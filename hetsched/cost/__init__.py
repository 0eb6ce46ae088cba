"""Seconds: what computing, copying and the host itself take on a machine, by its profile."""
