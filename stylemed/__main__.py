"""`python -m stylemed` is the command line."""

from stylemed.cli import main

if __name__ == "__main__":
    main()
