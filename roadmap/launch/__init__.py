"""Where runs execute: here, several side by side."""
