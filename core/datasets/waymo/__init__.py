"""Waymo Open Dataset, perception: TFRecord (v1) and Parquet (v2) read in place, without TensorFlow."""
