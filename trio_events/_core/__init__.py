"""The order of a bus: the router actor, the subscription actors, and the sends that wait."""
