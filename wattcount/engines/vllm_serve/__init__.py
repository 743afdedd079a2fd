"""`vllm serve` as a child process, driven over HTTP."""
