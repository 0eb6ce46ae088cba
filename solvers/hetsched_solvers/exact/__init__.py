"""exact: dispatch by Lagrangian bounds and exhaustive search of what they leave open."""

from .solver import Exact as Exact
