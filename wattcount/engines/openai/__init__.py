"""A server that runs already and speaks OpenAI's API: vLLM, SGLang, TensorRT-LLM, llama.cpp and their like."""
