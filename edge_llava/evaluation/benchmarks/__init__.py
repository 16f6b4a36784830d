"""Published benchmarks: their questions, how answers are read, and the scores. Needs no engine."""
