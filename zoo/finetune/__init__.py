"""Fine-tuning: recipes, strategies, frozen features and the training loop."""
