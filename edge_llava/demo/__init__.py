"""Sample pictures of the demo."""
