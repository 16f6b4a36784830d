"""What the rooms share about llama.cpp's library and its file format."""
