"""The Redis broker: kombu's, with reservations that a killed worker cannot lose."""
