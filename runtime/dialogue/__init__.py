"""Words to runs and back. Pure: computes nothing."""
