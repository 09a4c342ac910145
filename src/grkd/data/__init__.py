"""Prompts, chat templates, batches, and classification sets."""
