"""The report: what a fine-tuned model learnt, where it overfits, what to fix in its data, why transfer worked."""
