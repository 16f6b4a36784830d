"""How a request to stop travels inside the runtime."""


class Cancelled(Exception):
    """Work was stopped on request. Caught by the session; never leaves the runtime's public functions."""
