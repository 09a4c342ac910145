"""`grkd init`: what a user's data are, and a commented recipe for them that runs."""
