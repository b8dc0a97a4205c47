"""Python functions on the grid: an executor of `concurrent.futures`, the same for asyncio, and how code gets there."""
