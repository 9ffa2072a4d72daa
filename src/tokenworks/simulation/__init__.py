"""A deployment on the engine: step table, cluster, run, what is measured of it, energy, capacity. Knows no search."""
