"""What things are and where they rest; imports neither torch nor vllm."""
