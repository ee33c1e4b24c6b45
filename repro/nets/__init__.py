"""Network architectures, as their papers define them."""
