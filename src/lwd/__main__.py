"""`python -m lwd` is the `lwd` command."""

from lwd.cli.main import main

main()
