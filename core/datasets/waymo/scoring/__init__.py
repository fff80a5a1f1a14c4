"""The benchmark: its metric per cell, predictions as it takes them, and what its validator refuses."""
