"""What travels: options, header, exceptions and callbacks as data."""
