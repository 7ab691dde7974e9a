"""What a training would see: the rendered prompt, and which of its tokens are trained."""
