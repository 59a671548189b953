"""What is remembered: contracts, records, and a folder for each back end."""
