"""Loads without a GPU: the scheduler of an engine in virtual time, driven by a model of its steps (docs/simulation.md)."""
