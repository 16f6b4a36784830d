"""Bundles from and to a hub or a plain web server: by manifest and sha256, resumable, nothing executed."""
