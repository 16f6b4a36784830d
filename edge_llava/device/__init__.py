"""What this device is: facts, memory, threads, measured settings."""
