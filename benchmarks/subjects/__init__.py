"""One file for each subject; each test measures one row."""
