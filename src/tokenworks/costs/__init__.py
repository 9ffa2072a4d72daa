"""Pure functions for the time, work and memory of serving steps, in SI units. They read no files and print nothing."""
