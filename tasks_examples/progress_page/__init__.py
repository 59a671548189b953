"""A web page with a progress bar: ``python -m tasks_examples.progress_page``."""
