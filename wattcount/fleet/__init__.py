"""Which boards of a fleet are on, asleep or off under a day of traffic (docs/fleet.md)."""
