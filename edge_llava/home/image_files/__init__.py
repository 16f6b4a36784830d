"""How image files are read: which formats, how far, and as which pixels. Runtime and training must agree on it."""
