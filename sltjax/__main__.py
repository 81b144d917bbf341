"""`python -m sltjax` is the command line."""

from sltjax.cli import main

if __name__ == "__main__":
    main()
