"""The endpoint that behaves like a deployment, in real time: HTTP, streams, metrics, and the engine on a real clock."""
