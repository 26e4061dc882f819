"""X-Forwarded-For and its kin (RFC 7239 for Forwarded)."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr, memcpy, memset, strlen

from fastpath.http.http1 cimport FIELD_MANAGED, field_t, is_named
from fastpath.http.writing cimport put, put_field, put_number, put_text
from fastpath.proxy.prefixes cimport prefixes_have
from fastpath.sys_linux cimport AF_INET, AF_INET6, inet_ntop, ntohs, sockaddr_any_t

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char *text, void *address)

# Fields of a trusted proxy's that are sent on as they are, once; those that are missing are ours.
cdef enum:
    HAS_PROTO = 1
    HAS_HOST = 2
    HAS_PORT = 4


# ---- the peer ----

cdef uint8_t put_address(uint8_t *out, const sockaddr_any_t *address) noexcept nogil:
    """Write an IP address; its size."""
    cdef char *text = <char *>out
    if address.any.sa_family == AF_INET:
        inet_ntop(AF_INET, &address.v4.sin_addr, text, ADDRESS_SIZE_MAX)
    else:
        inet_ntop(AF_INET6, &address.v6.sin6_addr, text, ADDRESS_SIZE_MAX)
    return <uint8_t>strlen(text)


cdef void peer_init(peer_t *self, const sockaddr_any_t *peer,
                    const sockaddr_any_t *local) noexcept nogil:
    cdef uint8_t *end = self.local
    self.is_v6 = peer.any.sa_family != AF_INET
    self.address_size = put_address(self.address, peer)
    if self.is_v6:
        end = put_text(end, b"[")
        end += put_address(end, local)
        end = put_text(end, b"]:")
        self.port = ntohs(local.v6.sin6_port)
    else:
        end += put_address(end, local)
        end = put_text(end, b":")
        self.port = ntohs(local.v4.sin_port)
    self.port_size = <uint8_t>put_number(end, self.port)
    self.local_size = <uint8_t>(end - self.local) + self.port_size


# ---- who asks, by a trusted proxy ----

cdef bint read_address(const uint8_t *text, uint16_t size, sockaddr_any_t *address) noexcept nogil:
    """Read `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    cdef char buffer[ADDRESS_SIZE_MAX]
    cdef const uint8_t *mark
    if size > 0 and text[0] == c"[":
        mark = <const uint8_t *>memchr(text, c"]", size)
        if mark == NULL:
            return False
        text += 1
        size = <uint16_t>(mark - text)
    else:
        mark = <const uint8_t *>memchr(text, c":", size) if size > 0 else NULL
        # A second colon makes it IPv6 without a port.
        if mark != NULL and memchr(mark + 1, c":", text + size - mark - 1) == NULL:
            size = <uint16_t>(mark - text)
    if size == 0 or size >= ADDRESS_SIZE_MAX:
        return False
    memcpy(buffer, text, size)
    buffer[size] = 0
    memset(address, 0, sizeof(sockaddr_any_t))
    if inet_pton(AF_INET, buffer, &address.v4.sin_addr) == 1:
        address.v4.sin_family = AF_INET
        return True
    if inet_pton(AF_INET6, buffer, &address.v6.sin6_addr) == 1:
        address.v6.sin6_family = AF_INET6
        return True
    return False


cdef bint is_for(const field_t *field, const uint8_t *data) noexcept nogil:
    return field.kind == FIELD_MANAGED and is_named(
        data + field.name.at, field.name.size, b"x-forwarded-for"
    )


cdef bint forwarded_source(const head_t *head, const uint8_t *data, const prefixes_t *trusted,
                           sockaddr_any_t *source) noexcept nogil:
    cdef sockaddr_any_t address
    cdef const uint8_t *text
    cdef bint is_told = False
    cdef uint16_t i, end, first, last
    for i in range(head.fields_count, 0, -1):
        if not is_for(&head.fields[i - 1], data):
            continue
        text = data + head.fields[i - 1].value.at
        end = head.fields[i - 1].value.size
        while True:             # from the last element to the first
            first = end
            while first > 0 and text[first - 1] != c",":
                first -= 1
            last = end
            end = first - 1 if first > 0 else 0
            while last > first and text[last - 1] in (c" ", c"\t"):
                last -= 1
            while first < last and text[first] in (c" ", c"\t"):
                first += 1
            if first < last:
                # What is no address was not written by a proxy that we trust.
                if not read_address(text + first, last - first, &address):
                    return is_told
                source[0] = address
                is_told = True
                if not prefixes_have(trusted, &address):
                    return True
            if end == 0:
                break
    return is_told


# ---- what the backend hears ----

cdef uint8_t *put_values(uint8_t *end, const char *name, const head_t *head,
                         const uint8_t *data) noexcept nogil:
    """All that a trusted proxy says in fields of this name, each followed by a comma."""
    cdef const field_t *field
    cdef uint16_t i
    for i in range(head.fields_count):
        field = &head.fields[i]
        if (field.kind == FIELD_MANAGED and field.value.size > 0
                and is_named(data + field.name.at, field.name.size, name)):
            end = put(end, data + field.value.at, field.value.size)
            end = put_text(end, b", ")
    return end


cdef uint8_t *put_told(uint8_t *end, const head_t *head, const uint8_t *data,
                       uint8_t *has) noexcept nogil:
    """The other fields of a trusted proxy, each name of ours once."""
    cdef const field_t *field
    cdef const uint8_t *name
    cdef uint16_t i, size
    cdef uint8_t bit
    for i in range(head.fields_count):
        field = &head.fields[i]
        name = data + field.name.at
        size = field.name.size
        if field.kind != FIELD_MANAGED or is_for(field, data):
            continue
        if (is_named(name, size, b"x-real-ip") or is_named(name, size, b"forwarded")
                or is_named(name, size, b"x-request-id")):
            continue
        bit = 0
        if is_named(name, size, b"x-forwarded-proto"):
            bit = HAS_PROTO
        elif is_named(name, size, b"x-forwarded-host"):
            bit = HAS_HOST
        elif is_named(name, size, b"x-forwarded-port"):
            bit = HAS_PORT
        if bit and has[0] & bit:
            continue
        has[0] |= bit
        end = put_field(end, field, data)
    return end


cdef uint8_t *forwarded_put(uint8_t *end, const request_t *request, const head_t *head,
                            const uint8_t *data, const peer_t *peer,
                            const sockaddr_any_t *source) noexcept nogil:
    cdef uint8_t has = 0
    cdef bint is_trusted = request.is_trusted
    end = put_text(end, b"X-Forwarded-For: ")
    if is_trusted:
        end = put_values(end, b"x-forwarded-for", head, data)
    end = put(end, peer.address, peer.address_size)
    end = put_text(end, b"\r\n")
    if is_trusted:
        end = put_told(end, head, data, &has)
    if not has & HAS_PROTO:
        end = put_text(end, b"X-Forwarded-Proto: http\r\n")
    if not has & HAS_HOST:
        end = put_text(end, b"X-Forwarded-Host: ")
        end = put_host(end, request, data, peer)
        end = put_text(end, b"\r\n")
    if not has & HAS_PORT:
        end = put_text(end, b"X-Forwarded-Port: ")
        end = put(end, peer.local + peer.local_size - peer.port_size, peer.port_size)
        end = put_text(end, b"\r\n")
    end = put_text(end, b"X-Real-Ip: ")
    if is_trusted:
        end += put_address(end, source)
    else:
        end = put(end, peer.address, peer.address_size)
    end = put_text(end, b"\r\nForwarded: ")
    if is_trusted:
        end = put_values(end, b"forwarded", head, data)
    end = put_text(end, b"for=\"[" if peer.is_v6 else b"for=")
    end = put(end, peer.address, peer.address_size)
    end = put_text(end, b"]\";host=\"" if peer.is_v6 else b";host=\"")
    end = put_host(end, request, data, peer)
    end = put_text(end, b"\";proto=http\r\n")
    if request.id_size > 0:
        end = put_text(end, b"X-Request-Id: ")
        end = put(end, request.id, request.id_size)
        end = put_text(end, b"\r\n")
    return end
