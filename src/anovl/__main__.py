"""``python -m anovl`` is the command ``anovl``."""

from anovl.cli import main

main()
