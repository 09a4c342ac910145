"""A model's answers to questions: generated locally or behind an endpoint, stored, reused."""
