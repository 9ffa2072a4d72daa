"""Pure functions from SI to SI: what a step of serving costs. No files, no flags, no printing."""
