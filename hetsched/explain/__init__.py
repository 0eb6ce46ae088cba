"""Explanations of a run from its log: why a layer was decided as it was, and what became of one expert.

A log holds what a scheduler was told and what it did. Everything else is computed here: the same scheduler is told the
same again up to the layer in question (again.py), the layer's program is posed from what it knows then (posed.py), and
alternatives are judged by the project's own judge (layer.py). Nothing of this is in the hot path.
"""
