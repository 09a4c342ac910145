"""The classifier task: teach -> score -> train -> evaluate, and its comparison."""
