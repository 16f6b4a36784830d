"""How fast a bundle is on this device: which settings are best, and what they give. Knows the runtime only."""
