"""The routes, resource by resource."""
