"""Side-by-side measurements of kq, dense torch and bitsandbytes; see benchmarks/README.md."""
