"""Texts that users have become launch commands: command lines, scripts, manifests, recipes. Nothing is executed."""
