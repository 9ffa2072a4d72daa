"""Request-level serving simulation on a logical clock: no I/O, no printing, no model; numbers in, arrays out."""
