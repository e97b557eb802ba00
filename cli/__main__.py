"""`python -m echoedge.cli`."""

from . import main

main()
