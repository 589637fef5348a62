"""A balanced slice of Fashion-MNIST: 512 calibration and 2000 evaluation images."""
