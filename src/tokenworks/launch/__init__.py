"""A deployment becomes the launch commands of a serving engine, and launch commands become a deployment."""
