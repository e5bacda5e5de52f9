"""Everything that is true only because Chroma says so: its names, rules, messages and result shapes."""
