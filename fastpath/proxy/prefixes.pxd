"""Whether an address is in a set of CIDR prefixes: who may connect, who is a proxy to trust."""

from fastpath.abi cimport prefixes_t
from fastpath.sys_linux cimport sockaddr_any_t

# IPv4 is looked for as ::ffff:a.b.c.d, so it does not matter in which of the two forms an address
# comes. No address is in the empty set.
cdef bint prefixes_have(const prefixes_t *self, const sockaddr_any_t *address) noexcept nogil
