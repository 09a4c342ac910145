"""`grkd eval`: benchmarks of a model, resumable.

arguments: its command-line arguments, made from the benchmarks. run: the command itself (imports torch).
"""
