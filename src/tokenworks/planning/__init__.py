"""The search for deployments: legal splits, bounds, estimates, the Pareto front, and the words for what is found."""
