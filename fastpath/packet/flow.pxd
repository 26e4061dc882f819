"""What the packet code speaks of: which flow a packet is of, and what becomes of its packets.

Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2); they and the ports are in
network order, as they are in the packet. These structures are also the keys and values of the BPF
maps (flow_cache.bpf.c), so they have no padding and each of their bytes is always set.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef struct flow_key_t:         # hashed and compared as a whole
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t source_port
    uint16_t destination_port
    uint8_t protocol            # IPPROTO_TCP or IPPROTO_UDP
    uint8_t spare[3]            # 0


# rewrite_t.how
cdef enum:
    REWRITE_MAC = 0             # dsr: the frame goes to the backend's MAC, its packet as it came
    REWRITE_NAT = 1             # both addresses and ports are new
    REWRITE_ENCAPSULATE = 2     # dsr across subnets: an outer IP header (RFC 2003, RFC 2473)


cdef struct rewrite_t:          # for the packets of one flow in one direction
    uint8_t source[16]          # NAT: the new one; encapsulation: the outer one; else 0
    uint8_t destination[16]     # likewise
    uint16_t source_port        # NAT: the new one; else 0
    uint16_t destination_port   # likewise
    uint32_t interface          # index of the one that the frame leaves by
    uint32_t use                # index of the flow's flow_use_t
    # NAT: what checksums change by: the folded sum of ~old and new (RFC 1624, eqn 3).
    uint16_t ip_delta           # of the IPv4 header: the addresses
    uint16_t l4_delta           # of TCP or UDP: addresses and ports
    uint16_t mtu                # longest IP packet that may come in; longer ones are answered
    uint8_t how                 # REWRITE_*
    uint8_t v6                  # the new or outer addresses are IPv6
    uint8_t destination_mac[6]
    uint8_t source_mac[6]


cdef struct flow_use_t:         # of one direction of a flow, in the kernel: an mmapped array map
    uint64_t packets            # forwarded by the flow cache
    uint64_t bytes              # of them, whole frames
    uint64_t last_ns            # CLOCK_MONOTONIC_COARSE, of the latest one
    uint64_t spare
