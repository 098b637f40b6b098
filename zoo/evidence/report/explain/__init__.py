"""Why a model works: what its stages see, what fine-tuning moved, what its answers rest on."""
