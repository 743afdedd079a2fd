"""A tiny engine that computes on a CPU: the default where no vLLM is, and the double of the tests."""
