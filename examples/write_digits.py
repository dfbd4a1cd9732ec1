"""Writes the first test image of each digit to examples/digits/ as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image
from train_digits import digits_split

_, images, _, labels = digits_split()
for digit in range(10):
    image = images[np.flatnonzero(labels == digit)[0]]
    Image.fromarray(image).save(Path(__file__).parent / 'digits' / f'{digit}.png')
