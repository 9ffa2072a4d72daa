"""From a model and a machine to ranked deployments: legal points, bounds, estimates, the Pareto front."""
