"""Pure data: what a device, system, model, workload, SLO and deployment are. Frozen and strict."""
