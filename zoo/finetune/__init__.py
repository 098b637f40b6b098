"""Fine-tuning: recipe, freezing, features, probe, the one training loop."""
