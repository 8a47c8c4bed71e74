"""What the benchmark scripts share: processes, tools, measures, tables."""
