"""Class distances of image classifiers: how small a trigger turns one class into another."""
