"""Results as what a prediction learns from: rows, fits, intervals, and how well it does on what it never saw."""
