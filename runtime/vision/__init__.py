"""An image in, an ImageEmbedding out. Never imports llama_cpp."""
