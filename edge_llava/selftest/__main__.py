"""python -m edge_llava.selftest: the command `edge-llava-selftest`."""

from edge_llava.cli.selftest import main

if __name__ == "__main__":
    main()
