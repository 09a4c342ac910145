"""What a teacher says of candidates: its signal for tokens, its scores and choices for responses."""
