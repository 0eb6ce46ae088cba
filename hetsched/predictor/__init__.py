"""Predictors: what the next layers will ask for, learned from traces beforehand. Only training knows torch."""
