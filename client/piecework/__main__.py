"""`python -m piecework`."""

from piecework.cli import app

if __name__ == "__main__":
    app(prog_name="piecework")
