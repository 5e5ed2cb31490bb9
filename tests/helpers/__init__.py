"""What tests of several folders share: small runs, and whatever else would otherwise be written twice."""
