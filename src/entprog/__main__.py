"""`python -m entprog` is the `entprog` command."""

from entprog.cli import main

if __name__ == "__main__":
    main()
