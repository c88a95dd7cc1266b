"""Layer 4: ablations: claims about parts of a network, put to the test."""
