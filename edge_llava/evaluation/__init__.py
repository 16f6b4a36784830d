"""How well a bundle answers: exams about pictures whose every fact is known. Knows the runtime, never torch."""
