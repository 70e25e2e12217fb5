"""The paper's experiment in simulation: cells, their order, the engine that runs them, and their records."""
