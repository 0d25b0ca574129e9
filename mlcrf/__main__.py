"""`python -m mlcrf`."""

from mlcrf.cli import main

if __name__ == "__main__":
    main()
