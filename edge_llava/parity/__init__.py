"""How close a bundle's answers are to the original model's."""
