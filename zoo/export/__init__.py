"""Export: a fine-tuned model in the formats of other libraries, checked in a process without zoo before it is kept."""
