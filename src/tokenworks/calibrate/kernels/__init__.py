"""Kernel tables to utilisations: rows of single kernels, fitted with the formulas that predict them in a step."""
