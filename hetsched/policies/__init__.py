"""Strategies, one a file. `misses.py` holds the two simple answers to a miss that several of them share."""
