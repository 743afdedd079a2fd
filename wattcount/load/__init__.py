"""Loads: arrival processes, request lengths, traces, and the open-loop generator that sends them."""
