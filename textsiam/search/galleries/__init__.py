"""What a gallery is made of: who is enrolled, when a claim is accepted, and what that says of people never seen."""
