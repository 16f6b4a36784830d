"""Where things live, and how files are read and written."""
