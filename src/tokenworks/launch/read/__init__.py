"""Text that users have becomes launch commands: command lines, shell scripts, manifests, recipes. Nothing is executed."""
