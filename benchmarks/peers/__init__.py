"""The other ways to run a LLaVA, and ours: each a process of its own that answers questions, see `protocol`.

Every one runs in its own environment, outside this repository; the modules say how to make it. They are started by
`compare.py`, with this directory's parent as the working directory: `PYTHON -m peers.openvino_peer MODEL`.
"""
