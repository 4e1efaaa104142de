"""`python -m embedshard` is the command line."""

from embedshard.cli import main

if __name__ == "__main__":
    main(prog_name="embedshard")
