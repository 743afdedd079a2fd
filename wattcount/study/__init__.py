"""The analysis of results: statistics of repeats, and tables of what settings, loads and GPUs cost. Reads `Result`s."""
