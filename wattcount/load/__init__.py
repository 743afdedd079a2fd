"""Loads: arrival processes, request lengths, traces, and the open-loop generator that sends them."""

from wattcount.load.build import BuiltLoad, build_plan
from wattcount.load.generator import LoadGenerator, RequestRecord
from wattcount.load.plan import LoadPlan
from wattcount.load.streams import workload_seed
from wattcount.load.tokenizer import for_model as tokenizer_for_model

__all__ = [
    "BuiltLoad",
    "LoadGenerator",
    "LoadPlan",
    "RequestRecord",
    "build_plan",
    "tokenizer_for_model",
    "workload_seed",
]
