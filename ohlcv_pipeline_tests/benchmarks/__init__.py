"""Every number the project promises, measured beside a raw baseline in the same run: `make bench`."""
