"""`python -m diagnet.cli` is `diagnet`."""

from diagnet.cli import main

main()
