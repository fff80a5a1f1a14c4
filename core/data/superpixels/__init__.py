"""Superpixels of camera images, as maps on disk that ``dataset.planes`` attaches to the images."""
