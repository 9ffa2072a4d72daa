"""Fit utilisations on tables of single kernels, with the formulas that predict these kernels inside a step."""
