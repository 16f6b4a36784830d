"""What this device and this installation are, and what to do about it.

Facts are read by functions that take a tree of files, so that tests give them one. What may crash runs in a child.
"""
