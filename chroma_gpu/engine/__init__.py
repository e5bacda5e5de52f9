"""Where filter, index and store meet: catalog (names), engine (open tables), table (one collection), planner (which way)."""
