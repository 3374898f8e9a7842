"""Training of the face model: data, augmentation, loop, evaluation, export."""
