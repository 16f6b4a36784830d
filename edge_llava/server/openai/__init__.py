"""OpenAI's API: requests, answers, errors."""
