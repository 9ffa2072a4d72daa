"""`python -m tokenworks` is `tokenworks`."""

from tokenworks.cli import main

main()
