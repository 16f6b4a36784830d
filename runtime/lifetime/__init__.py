"""How work is started and stopped, and how what it holds is freed."""
