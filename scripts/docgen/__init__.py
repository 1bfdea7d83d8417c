"""Makes the reference pages from the code that they describe: a file for each page, listed in `pages.py`."""
