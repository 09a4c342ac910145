"""The order of the stages: a whole run, a whole comparison."""
