"""Weight files: safetensors, their headers, and the load into a module built on the meta device."""
