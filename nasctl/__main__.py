"""`python -m nasctl`: the same as the `nasctl` command."""

from nasctl.cli import main

main()
