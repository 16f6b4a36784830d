"""The contract between converters and runtime: what a bundle is."""
