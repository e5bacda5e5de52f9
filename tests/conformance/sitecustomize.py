"""For the suite's child processes, which find this folder on their path: they import what their parent imports as chromadb."""

import chroma_suite  # noqa: F401
