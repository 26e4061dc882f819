"""What the kernel declares for packet sockets (packet(7)), and nothing else."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastpath.sys_linux cimport sa_family_t

cdef extern from "<linux/if_packet.h>" nogil:
    struct sockaddr_ll:
        sa_family_t sll_family
        uint16_t sll_protocol       # network order
        int sll_ifindex
        uint8_t sll_halen
        uint8_t sll_addr[8]

    struct tpacket_req:
        unsigned int tp_block_size
        unsigned int tp_block_nr
        unsigned int tp_frame_size
        unsigned int tp_frame_nr

    struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len             # of the frame
        uint32_t tp_snaplen         # of what there was room for
        uint16_t tp_mac             # where it begins
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid

    struct tpacket_stats:
        unsigned int tp_packets
        unsigned int tp_drops

    enum: TPACKET_V2
    enum: PACKET_RX_RING
    enum: PACKET_STATISTICS
    enum: PACKET_COPY_THRESH
    enum: PACKET_VERSION
    enum: PACKET_RESERVE
    enum: PACKET_VNET_HDR
    enum: PACKET_QDISC_BYPASS
    enum: PACKET_IGNORE_OUTGOING
    enum: TP_STATUS_KERNEL
    enum: TP_STATUS_USER
    enum: TP_STATUS_COPY
    enum: TP_STATUS_VLAN_VALID
    enum: TP_STATUS_VLAN_TPID_VALID

cdef extern from "<linux/virtio_net.h>" nogil:
    # What is left to be done to a frame; numbers are in the host's order.
    struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset

    enum: VIRTIO_NET_HDR_F_NEEDS_CSUM
    enum: VIRTIO_NET_HDR_GSO_NONE

cdef extern from "<linux/filter.h>" nogil:
    struct sock_filter:
        uint16_t code
        uint8_t jt
        uint8_t jf
        uint32_t k

    struct sock_fprog:
        unsigned short len
        sock_filter *filter

cdef extern from "<linux/if_ether.h>" nogil:
    enum: ETH_P_ALL
    enum: ETH_P_8021Q
    enum: ETH_HLEN

cdef extern from "<net/if.h>" nogil:
    char *if_indextoname(unsigned int index, char *name)

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_PACKET
    enum: SOCK_RAW
    enum: SO_ATTACH_FILTER
    enum: SO_ATTACH_BPF
    enum: SO_RCVBUFFORCE
    enum: SO_SNDBUFFORCE
    enum: MSG_DONTWAIT

cdef extern from "<sys/mman.h>" nogil:
    enum: MAP_SHARED

cdef extern from "<errno.h>" nogil:
    enum: ENETDOWN
    enum: ENODEV
    enum: ENXIO

cdef extern from * nogil:
    """
    #include <linux/if_packet.h>
    #include <net/if.h>
    #include <string.h>
    #include <sys/ioctl.h>
    #ifndef SOL_PACKET
    #define SOL_PACKET 263
    #endif

    /* The kernel writes a slot's status when the rest is there, and has a slot back by it. */
    #define fp_slot_status(header) __atomic_load_n(&(header)->tp_status, __ATOMIC_ACQUIRE)
    #define fp_slot_return(header) \\
        __atomic_store_n(&(header)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE)

    /* The longest packet of an interface, in bytes without the Ethernet header; -1: see errno. */
    static inline int fp_mtu_of(int fd, unsigned int index) {
        struct ifreq request;
        memset(&request, 0, sizeof(request));
        if (if_indextoname(index, request.ifr_name) == NULL)
            return -1;
        return ioctl(fd, SIOCGIFMTU, &request) < 0 ? -1 : request.ifr_mtu;
    }
    """
    enum: SOL_PACKET
    uint32_t slot_status "fp_slot_status" (const tpacket2_hdr *header)
    void slot_return "fp_slot_return" (tpacket2_hdr *header)
    int mtu_of "fp_mtu_of" (int fd, unsigned int index)
