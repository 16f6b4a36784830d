"""Measures how well a bundle answers, with exams about pictures whose every fact is known. It never uses torch."""
