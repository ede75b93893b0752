"""One-line sabotages of the engine, each of which a named test must notice: the tests of the tests."""
