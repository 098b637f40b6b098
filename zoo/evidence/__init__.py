"""What the data can show: statistics, which backbone fits, whether transfer pays."""
