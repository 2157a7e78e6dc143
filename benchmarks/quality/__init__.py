"""What 8-bit state costs in quality: a small language model trained from scratch, per optimizer."""
