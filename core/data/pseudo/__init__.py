"""Labels for scans that nobody labelled."""
