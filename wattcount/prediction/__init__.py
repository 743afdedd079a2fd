"""What a setting that was never measured will take: step time and power from physics, with learned corrections and intervals."""
