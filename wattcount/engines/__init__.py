"""Engines under measurement, each a plug-in in a folder of its own (`registry` finds them by name)."""
