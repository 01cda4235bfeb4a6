"""The machinery that runs chapters: `execution`, `publishing`, `regression`, `rehearsal`."""
