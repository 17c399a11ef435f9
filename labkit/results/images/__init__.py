"""What converters and builders of images made, judged: the output of labkit-images by image-spec."""
