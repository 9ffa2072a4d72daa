"""What the rooms below say about money: a comparison of machines, costs, sites, and sweeps."""
