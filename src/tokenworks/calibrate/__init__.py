"""Measured points -> utilisation and overhead factors with their error; and how far off predictions are."""
