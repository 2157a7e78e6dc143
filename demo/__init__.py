"""The main job of kq, end to end, on a real language model; `nox -s demo` runs it."""
