"""The pytest plugin that installing this package registers; it has no fixtures yet."""
