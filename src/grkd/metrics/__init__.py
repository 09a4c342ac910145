"""Measures of a student: rank fidelity, divergences, calibration, groups of classes."""
