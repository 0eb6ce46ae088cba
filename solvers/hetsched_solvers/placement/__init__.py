"""Placement solvers: which experts should be resident."""
