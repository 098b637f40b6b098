"""The doctors: what is wrong with a fine-tuned model and with its data, each as a Finding with evidence and a fix."""
