"""Release 2: a Parquet table per segment and component."""
