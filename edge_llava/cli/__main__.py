"""python -m edge_llava.cli: the command `edge-llava`, for launchers that start modules."""

from edge_llava.cli import main

if __name__ == "__main__":
    main()
