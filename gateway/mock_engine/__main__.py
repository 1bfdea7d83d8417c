"""`python -m gateway.mock_engine --port 9001`."""

import argparse
import sys

from gateway.mock_engine.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="mock-engine", description="An OpenAI-compatible mock engine.")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
