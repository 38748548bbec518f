"""`python -m entprog` is the `entprog` command."""

from entprog.cli.app import main

if __name__ == "__main__":
    main()
