/* The least that a UDP relay in user space can do: a connected socket to a backend for each client,
 * recvmmsg, and what one client sent or gets in a row by one sendmsg (UDP_SEGMENT, UDP_GRO). No
 * timeouts, limits, counters or health, and its clients are never forgotten: a floor, not a proxy.
 *
 *   udp_relay ADDRESS PORT BACKEND[,BACKEND...] BACKEND_PORT     the backends take turns
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 32, ROOM = 65536, MAX_FD = 20000, MAX_BACKENDS = 16, TABLE = 1 << 15 };
enum { TOGETHER = 32, TOGETHER_SIZE = 60000 }; /* datagrams and bytes in one sendmsg */

typedef struct {
    struct sockaddr_in from;
    char control[64];
    uint16_t size; /* of each of the datagrams that came as one; the last may be shorter */
} received_t;

static char data[BATCH][ROOM];
static received_t received[BATCH];
static struct iovec parts[BATCH];
static struct mmsghdr messages[BATCH];

static struct sockaddr_in clients[MAX_FD]; /* by the descriptor of their upstream socket */
static int upstreams[TABLE];               /* by a hash of the client; open addressing; 0: none */
static struct sockaddr_in backends[MAX_BACKENDS];
static int n_backends, next_backend, epoll_fd, listener;

static _Noreturn void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct sockaddr_in address_of(const char *host, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(port))};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1) fail(host);
    return a;
}

static int socket_for(const struct sockaddr_in *local, const struct sockaddr_in *remote) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0), one = 1, size = 4 << 20;
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (fd < 0 || fd >= MAX_FD) fail("socket");
    setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof one);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (local && bind(fd, (const struct sockaddr *)local, sizeof *local)) fail("bind");
    if (remote && connect(fd, (const struct sockaddr *)remote, sizeof *remote)) fail("connect");
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e)) fail("epoll_ctl");
    return fd;
}

static int upstream_of(const struct sockaddr_in *client) {
    uint64_t key = (uint64_t)client->sin_addr.s_addr << 16 | client->sin_port;
    uint32_t at = (uint32_t)(key * 0x9e3779b97f4a7c15u >> 49);
    for (;; at = (at + 1) % TABLE) {
        int fd = upstreams[at];
        if (!fd) break;
        if (clients[fd].sin_addr.s_addr == client->sin_addr.s_addr
            && clients[fd].sin_port == client->sin_port) return fd;
    }
    upstreams[at] = socket_for(NULL, &backends[next_backend++ % n_backends]);
    clients[upstreams[at]] = *client;
    return upstreams[at];
}

static int receive(int fd) {
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){data[i], ROOM};
        messages[i].msg_hdr = (struct msghdr){
            .msg_name = &received[i].from, .msg_namelen = sizeof received[i].from,
            .msg_iov = &parts[i], .msg_iovlen = 1, .msg_control = received[i].control,
            .msg_controllen = sizeof received[i].control};
    }
    int n = recvmmsg(fd, messages, BATCH, 0, NULL);
    for (int i = 0; i < n; i++) {
        struct cmsghdr *header = CMSG_FIRSTHDR(&messages[i].msg_hdr);
        parts[i].iov_len = messages[i].msg_len;
        received[i].size = header ? *(uint16_t *)CMSG_DATA(header) : (uint16_t)messages[i].msg_len;
    }
    return n;
}

/* How many of the messages from `i` on can be sent as one: same client, same size, no gap. */
static int in_a_row(int i, int n, int one_client) {
    size_t size = received[i].size, bytes = parts[i].iov_len;
    int end = i + 1;
    while (end < n && size && bytes % size == 0 && received[end].size == size
           && bytes + parts[end].iov_len <= TOGETHER_SIZE
           && (bytes + parts[end].iov_len) / size <= TOGETHER
           && (one_client || !memcmp(&received[i].from, &received[end].from, 8)))
        bytes += parts[end++].iov_len;
    return end - i;
}

static void send_on(int fd, struct sockaddr_in *to, int i, int count) {
    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct msghdr out = {.msg_iov = &parts[i], .msg_iovlen = (size_t)count};
    if (to) out.msg_name = to, out.msg_namelen = sizeof *to;
    if (count > 1 || parts[i].iov_len > received[i].size) {
        out.msg_control = control;
        out.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&out);
        *header = (struct cmsghdr){CMSG_LEN(sizeof(uint16_t)), SOL_UDP, UDP_SEGMENT};
        *(uint16_t *)CMSG_DATA(header) = received[i].size;
    }
    sendmsg(fd, &out, 0);
}

int main(int argc, char **argv) {
    struct epoll_event events[256];
    if (argc != 5) {
        fprintf(stderr, "usage: see the head of udp_relay.c\n");
        return 2;
    }
    epoll_fd = epoll_create1(0);
    for (char *at = strtok(argv[3], ","); at && n_backends < MAX_BACKENDS; at = strtok(NULL, ","))
        backends[n_backends++] = address_of(at, argv[4]);
    struct sockaddr_in local = address_of(argv[1], argv[2]);
    listener = socket_for(&local, NULL);
    for (;;) {
        int ready = epoll_wait(epoll_fd, events, 256, -1);
        for (int e = 0; e < ready; e++) {
            int fd = events[e].data.fd, n = receive(fd);
            for (int i = 0, count; i < n; i += count) {
                count = in_a_row(i, n, fd != listener);
                if (fd == listener) send_on(upstream_of(&received[i].from), NULL, i, count);
                else send_on(listener, &clients[fd], i, count);
            }
        }
    }
}
