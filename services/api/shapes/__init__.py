"""The requests and responses of the API, resource by resource."""
