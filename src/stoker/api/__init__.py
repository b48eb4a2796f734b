"""Wire types shared by the server and the router: requests, responses, errors, events."""
