"""The protein of CITE-seq: where it is, which name means a marker, and comparable levels."""
