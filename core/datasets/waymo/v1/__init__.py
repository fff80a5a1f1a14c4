"""Release 1: a TFRecord file per segment."""
