"""OpenAI-compatible chat endpoints: one client, a judge, and a journal of what they answered."""
