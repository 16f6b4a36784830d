"""HTTP as this server speaks it: bodies, hosts, keys, limits, logs."""
