"""Bundle and image in, tokens out. Nothing here imports torch, transformers, optimum or onnx."""
