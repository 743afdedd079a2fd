"""vLLM, in this process and its children."""
