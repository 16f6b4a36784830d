"""Language models on servers that speak OpenAI's protocol: a teacher of training data, a judge of answers."""
