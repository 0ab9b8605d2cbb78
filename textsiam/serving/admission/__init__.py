"""What a request must pass before anything is parsed or computed for it."""
