"""Which splits of a model over a machine exist, and the rules that explain why others do not."""
