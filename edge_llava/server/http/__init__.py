"""The HTTP layer: bodies, hosts, keys, limits, logs."""
