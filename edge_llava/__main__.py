"""`python -m edge_llava` is `edge-llava`."""

from edge_llava.cli import main

if __name__ == "__main__":
    main()
