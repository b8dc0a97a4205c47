"""The node: it receives and claims bundles, keeps its lease, and reports what its slots have done."""
