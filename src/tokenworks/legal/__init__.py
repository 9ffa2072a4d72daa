"""The splits of a model over a machine, and the rules that say which splits are legal and why the others are not."""
