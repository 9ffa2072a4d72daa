"""Fit utilisation and overhead factors on measured points, and compare predictions with measurements."""
