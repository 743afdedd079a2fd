"""Sweeps: many points declared once, started any number of times, until every one is measured or explained."""
