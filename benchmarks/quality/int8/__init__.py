"""What int8 costs in quality: perplexity, cosine drift, and outliers that grow."""
