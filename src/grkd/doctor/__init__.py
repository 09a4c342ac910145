"""`grkd doctor`: what is likely to spoil a run, found before anything is trained."""
