"""Weight files: read, write and validate safetensors, and load them into a module built on the meta device."""
