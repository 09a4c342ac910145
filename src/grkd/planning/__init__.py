"""`grkd plan`: memory, tokens, steps, hours, disk and money of a run before it begins, and what it can show."""
