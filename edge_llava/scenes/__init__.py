"""Drawn scenes, with every fact about them known, and texts and questions about them. Needs only numpy and Pillow."""
