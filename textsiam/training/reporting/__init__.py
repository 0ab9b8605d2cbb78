"""What a run says as it goes, and what it returns."""
