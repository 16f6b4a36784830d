"""Answers that a language model on a server judges: LLaVA-Bench and MM-Vet, and ScienceQA's ensembles."""
