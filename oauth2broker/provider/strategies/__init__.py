"""What providers do that data cannot say: one module for each provider."""
