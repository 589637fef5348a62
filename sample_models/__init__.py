"""Three small networks trained on Fashion-MNIST, with the images to calibrate and judge them."""
