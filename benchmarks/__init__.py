"""What the library costs, measured beside what people use today. `python -m benchmarks.run` does it all."""
