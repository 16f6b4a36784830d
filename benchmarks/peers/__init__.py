"""Other ways to run a LLaVA, and ours. Each runs as a separate process that answers questions; see `protocol`.

Each peer has its own environment, outside this repository; its module says how to make it. `compare.py` starts it with
this directory's parent as the working directory: `PYTHON -m peers.openvino_peer MODEL`.
"""
