"""Measures how fast a bundle is on this device and which settings are best. It uses the runtime only."""
