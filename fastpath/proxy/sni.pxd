"""Which server a TLS client asks for, read from its ClientHello; nothing is decrypted.

For what is passed through to a backend that has the certificate. A ClientHello (RFC 8446, 4.1.2,
and the same of TLS 1.0 to 1.2) may come in many records (5.1), in many segments; with the keys of
post-quantum exchanges it does not fit into one. It is read to its end before anything is said, so
that whoever reads it after us finds the same name.
"""

from libc.stdint cimport uint8_t


cdef enum:
    SNI_SIZE_MAX = 16384        # of a ClientHello with its record headers; as BUFFER_SIZE
    SNI_NAME_MAX = 253          # of a host name (RFC 1035, 2.3.4, as text)
    SNI_ALPN_MAX = 255


cdef struct sni_t:
    uint8_t name[SNI_NAME_MAX]  # lower case
    uint8_t name_size           # 0: the client does not say
    uint8_t alpn_size           # 0: none, or more than there is room for
    uint8_t alpn[SNI_ALPN_MAX]  # names by preference, each behind its length (RFC 7301, 3.1)


# Look at what a connection begins with. FP_DONE: a whole ClientHello, `sni` has what it asks for;
# FP_AGAIN: data[0:size] is the beginning of one; FP_BAD: it is none, malformed, longer than
# SNI_SIZE_MAX, or asks for something that is not a host name (RFC 6066, 3: an IP address is none).
# FP_BAD comes when the field that is wrong is complete. Only FP_DONE gives `sni` a meaning.
cdef int sni_peek(const uint8_t *data, size_t size, sni_t *sni) noexcept nogil
