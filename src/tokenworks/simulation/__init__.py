"""Simulation of a deployment: step table, cluster, run, measured window, energy, capacity. Contains no search."""
