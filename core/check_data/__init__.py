"""``python -m core.check_data CONFIG``: what a data set should have, what is there, and what is damaged."""
