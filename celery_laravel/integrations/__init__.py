"""Where this library meets others, one package each; each needs the extra of its name."""
