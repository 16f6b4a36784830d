"""Descriptions inside image files: XMP and EXIF are edited in place, and no pixel is encoded again."""
