"""Model, what loads and saves it, and what it generates."""
