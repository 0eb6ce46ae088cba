"""Evaluate: forecasters under the protocols of papers and under an honest one, with what each number measures.

`evaluate("honest", trace, model, hardware=...)` is the one call most readers want.
"""

from .evaluation import PROTOCOLS, evaluate
from .result import Evaluation, Row

__all__ = ["PROTOCOLS", "Evaluation", "Row", "evaluate"]
