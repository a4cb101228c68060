"""The client of Longshore: hand in files and jobs, follow them, cancel them."""
