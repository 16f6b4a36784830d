"""llama.cpp: weights, one context, how tokens are sampled. Never imports onnxruntime."""
