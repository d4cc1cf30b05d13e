"""`python -m tirazh` is the command `tirazh`."""

from tirazh.jobs.cli import run

if __name__ == "__main__":
    run()
