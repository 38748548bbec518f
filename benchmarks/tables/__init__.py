"""What the records of a suite show: tables, pictures and the page."""
