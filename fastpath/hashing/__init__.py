"""SipHash, XXH64 and Maglev."""
