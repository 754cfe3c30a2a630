"""One kernel text, three dialects: Metal, CUDA, and a CPU for tests."""
