"""The core of a bus: the router, the actors of subscriptions, and waiting sends."""
