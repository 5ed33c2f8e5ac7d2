"""Pictures and files out; knows results, no model and no engine."""
