"""The kernel's and libc's declarations that the engine uses, and nothing else."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport off_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    ctypedef uint16_t sa_family_t

    struct sockaddr:
        sa_family_t sa_family

    struct iovec:
        void *iov_base
        size_t iov_len

    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    struct linger:
        int l_onoff
        int l_linger

    enum: AF_INET
    enum: AF_INET6
    enum: SOCK_STREAM
    enum: SOCK_DGRAM
    enum: SOCK_NONBLOCK
    enum: SOCK_CLOEXEC
    enum: SOL_SOCKET
    enum: SO_LINGER
    enum: SO_ERROR
    enum: SO_KEEPALIVE
    enum: SHUT_WR
    enum: MSG_NOSIGNAL
    enum: MSG_MORE
    enum: MSG_PEEK
    enum: MSG_TRUNC
    enum: MSG_ERRQUEUE

    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *header)
    uint8_t *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t size)
    size_t CMSG_SPACE(size_t size)

    int socket(int domain, int type, int protocol)
    int accept4(int fd, sockaddr *address, socklen_t *size, int flags)
    int bind(int fd, const sockaddr *address, socklen_t size)
    int connect(int fd, const sockaddr *address, socklen_t size)
    int getsockname(int fd, sockaddr *address, socklen_t *size)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *size)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t size)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr

    struct in6_addr:
        uint8_t s6_addr[16]

    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id

    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr

    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex

    enum: IPPROTO_IP
    enum: IPPROTO_IPV6
    enum: IPPROTO_TCP
    enum: IPPROTO_UDP
    enum: IP_BIND_ADDRESS_NO_PORT
    enum: IP_PKTINFO
    enum: IP_RECVERR
    enum: IPV6_PKTINFO
    enum: IPV6_RECVERR
    uint16_t htons(uint16_t value)
    uint16_t ntohs(uint16_t value)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *address, char *text, socklen_t size)

cdef extern from "<netinet/udp.h>" nogil:
    enum: UDP_GRO
    enum: UDP_SEGMENT

cdef extern from "<linux/errqueue.h>" nogil:
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin

    enum: SO_EE_ORIGIN_ICMP
    enum: SO_EE_ORIGIN_ICMP6

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_KEEPIDLE
    enum: TCP_NODELAY
    enum: TCP_USER_TIMEOUT

cdef extern from * nogil:
    """
    #include <netinet/in.h>
    #include <sys/socket.h>
    typedef union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } fp_sockaddr_any;
    """
    # An IPv4 or IPv6 socket address in 28 bytes.
    ctypedef union sockaddr_any_t "fp_sockaddr_any":
        sockaddr any
        sockaddr_in v4
        sockaddr_in6 v6

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        void *ptr

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_MOD
    enum: EPOLL_CTL_DEL
    enum: EPOLL_CLOEXEC
    enum: EPOLLIN
    enum: EPOLLOUT
    enum: EPOLLERR
    enum: EPOLLHUP
    enum: EPOLLRDHUP
    enum: EPOLLET

    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int n_events, int timeout_ms)

cdef extern from "<sys/eventfd.h>" nogil:
    enum: EFD_NONBLOCK
    enum: EFD_CLOEXEC
    int eventfd(unsigned int value, int flags)
    int eventfd_read(int fd, uint64_t *value)
    int eventfd_write(int fd, uint64_t value)

cdef extern from "<sys/mman.h>" nogil:
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_PRIVATE
    enum: MAP_SHARED
    enum: MAP_ANONYMOUS
    enum: MAP_NORESERVE
    void *MAP_FAILED
    void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
    int munmap(void *address, size_t size)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    int usleep(unsigned int us)
    int pipe2(int *ends, int flags)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<fcntl.h>" nogil:
    enum: O_RDONLY
    enum: O_CLOEXEC
    enum: O_NONBLOCK
    enum: F_GETPIPE_SZ
    enum: F_SETPIPE_SZ
    enum: SPLICE_F_MOVE
    enum: SPLICE_F_NONBLOCK
    int fcntl(int fd, int command, ...)
    ssize_t splice(int source, void *from_offset, int target, void *to_offset, size_t size,
                   unsigned int flags)
    int open(const char *path, int flags, ...)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *time)

cdef extern from "<errno.h>" nogil:
    enum: EADDRNOTAVAIL
    enum: EAGAIN
    enum: ECONNABORTED
    enum: ECONNRESET
    enum: EINPROGRESS
    enum: EINTR
    enum: EINVAL
    enum: EIO
    enum: EMSGSIZE
    enum: EMFILE
    enum: ENFILE
    enum: ENOBUFS
    enum: ENOMEM
