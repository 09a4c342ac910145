"""The search of a comparison, the same for every task."""
