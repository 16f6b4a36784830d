"""The conversation on a terminal: what is typed, shown, kept and exported."""
