/* The backends: each does the least work that its workload allows.
 *
 * The endless stream is sent by sendfile from memory, so that its pages are not copied: a proxy,
 * not this end, is what limits the throughput.
 */
#include "ends.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FILE_SIZE = 1 << 20, CHUNK = 1 << 18, READ_SIZE = 16384 };

backends_t backends;
static int stream_file, udp_socket;
static int together;  /* answers to one client leave by one call */

/* A socket on every address and any port. A port that was free on one address only might not do:
 * connections that have just ended hold theirs. */
static int bound(int type, in_port_t *port) {
    int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t size = sizeof a;
    if (bind(fd, (struct sockaddr *)&a, size)) fail("bind");
    if (getsockname(fd, (struct sockaddr *)&a, &size)) fail("getsockname");
    *port = ntohs(a.sin_port);
    return fd;
}

static in_port_t listen_for(role_t role) {
    in_port_t port;
    int fd = bound(SOCK_STREAM, &port);
    if (listen(fd, 4096)) fail("listen");
    watch(fd, role, EPOLLIN);
    return port;
}

static in_port_t listen_for_datagrams(void) {
    in_port_t port;
    int one = 1;
    udp_socket = bound(SOCK_DGRAM, &port);
    big_buffers(udp_socket);
    setsockopt(udp_socket, SOL_IP, IP_PKTINFO, &one, sizeof one);
    watch(udp_socket, UDP_ECHO, EPOLLIN);
    return port;
}

void backends_listen(void) {
    stream_file = memfd_create("stream", 0);
    if (stream_file < 0 || ftruncate(stream_file, FILE_SIZE)) fail("memfd_create");
    char *bytes = mmap(NULL, FILE_SIZE, PROT_WRITE, MAP_SHARED, stream_file, 0);
    if (bytes == MAP_FAILED) fail("mmap");
    for (int i = 0; i < FILE_SIZE; i++) bytes[i] = (char)(i * 2654435761u >> 24);
    in_port_t echo_port = listen_for(ECHO_LISTENER), stream_port = listen_for(SOURCE_LISTENER);
    printf("ports %d %d %d\n", echo_port, stream_port, listen_for_datagrams());
}

void backends_begin(int segments) {
    int size = segments ? DATAGRAM : 0;
    together = segments;
    backends.streamed = 0;
    if (setsockopt(udp_socket, SOL_UDP, UDP_SEGMENT, &size, sizeof size)) fail("UDP_SEGMENT");
}

static void accept_all(int listener) {
    int echo = ends[listener].role == ECHO_LISTENER, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        no_delay(fd);
        watch(fd, echo ? ECHO : SOURCE, echo ? EPOLLIN : EPOLLOUT | EPOLLRDHUP);
        backends.open++;
    }
}

static void hang_up(int fd) {
    drop(fd);
    backends.open--;
}

static void echo(int fd) {
    static char in[READ_SIZE], answer[READ_SIZE + MESSAGE];
    ssize_t n = read(fd, in, sizeof in);
    if (n < 0 && errno == EAGAIN) return;
    uint32_t got = ends[fd].got + (uint32_t)(n > 0 ? n : 0), whole = got - got % MESSAGE;
    ends[fd].got = got % MESSAGE;
    if (n <= 0 || (whole && write(fd, answer, whole) != (ssize_t)whole)) hang_up(fd);
}

static void stream(int fd) {
    char ignored;
    off_t from = ends[fd].got;
    ssize_t n = backends.flowing ? sendfile(fd, stream_file, &from, CHUNK)
                                 : recv(fd, &ignored, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        hang_up(fd);
        return;
    }
    if (n > 0 && backends.flowing) backends.streamed += (uint64_t)n;
    ends[fd].got = (uint32_t)(from % FILE_SIZE);
}

/* Send each back where it came from, from where it went to: what was received says both. */
static void echo_datagrams(int fd) {
    static char data[BATCH][2048], control[BATCH][64];
    struct sockaddr_in from[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr in[BATCH] = {0};
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){data[i], sizeof data[i]};
        in[i].msg_hdr = (struct msghdr){
            .msg_name = &from[i], .msg_namelen = sizeof from[i], .msg_iov = &parts[i],
            .msg_iovlen = 1, .msg_control = control[i], .msg_controllen = sizeof control[i]};
    }
    int n = recvmmsg(fd, in, BATCH, 0, NULL);
    for (int i = 0; i < n; i++) parts[i].iov_len = in[i].msg_len;
    if (n > 0 && !together) sendmmsg(fd, in, (unsigned)n, 0);
    for (int i = 0, end; together && i < n; i = end) { /* those of one client by one call */
        for (end = i + 1; end < n && !memcmp(&from[i], &from[end], sizeof from[i]);) end++;
        in[i].msg_hdr.msg_iovlen = (size_t)(end - i);
        sendmsg(fd, &in[i].msg_hdr, 0);
    }
}

void backends_event(int fd) {
    switch (ends[fd].role) {
    case ECHO: echo(fd); break;
    case SOURCE: stream(fd); break;
    case UDP_ECHO: echo_datagrams(fd); break;
    default: accept_all(fd);
    }
}
