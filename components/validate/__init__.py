"""Block bad data with Great Expectations."""
