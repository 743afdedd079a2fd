"""Loads: arrival processes, request lengths, traces, and the open-loop generator that sends them."""

from wattcount.load.build import BuiltLoad, build_plan
from wattcount.load.generator import LoadGenerator, RequestRecord
from wattcount.load.plan import LoadPlan, workload_seed

__all__ = [
    "BuiltLoad",
    "LoadGenerator",
    "LoadPlan",
    "RequestRecord",
    "build_plan",
    "workload_seed",
]
