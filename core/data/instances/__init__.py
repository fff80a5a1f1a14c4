"""Instance databases and the paste augmentation: objects of the training scans, cut out once, put into other scans."""
