"""Driving a server over HTTP: what engines share whose requests leave this process."""
